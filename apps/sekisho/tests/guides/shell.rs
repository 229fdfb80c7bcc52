//! One bash for one page, in namespaces of its own where the machine permits it.

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Instant;

/// Namespaces for network, mounts and processes: fixed ports and pcscd of one page do not meet the rest, and whatever a page leaves
/// running ends with its shell. As root, or as a user who may be root in a namespace.
const OWN: [&[&str]; 2] = [
    &[
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ],
    &[
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ],
];
/// What a new network namespace lacks, and where pcscd has its socket.
const FURNISH: &str = "ip link set lo up && mount -t tmpfs tmpfs /run && ";
/// As many files as most machines allow; where there are fewer, those.
const FILES: &str = "{ ulimit -n 1024 || true; } 2>/dev/null";
/// Takes numbers of commands on standard input; answers with exit code and the last job's process id. The commands themselves see neither
/// end of it.
const LOOP: &str = r#"
exec 3<&0 4>&1 </dev/null
while read -r -u 3 sekisho_guide_step; do
    . "$GUIDE_STEPS/$sekisho_guide_step" >"$GUIDE_STEPS/$sekisho_guide_step.out" 2>&1 3<&- 4>&-
    echo "$? ${!-}" >&4
done
"#;
/// Ends each job by its process id. One that had ended by itself, and with an error, is told; 127: the page has waited for it.
const END: &str = r#"
sekisho_guide_end() {
    local job code
    for job in "$@"; do
        kill "$job" 2>/dev/null
        code=0
        wait "$job" 2>/dev/null || code=$?
        case $code in 0|127|137|143) ;; *) echo "a job in the background ended with exit code $code" ;; esac
    done
}
"#;
const LOOK: Duration = Duration::from_millis(10);

/// How `unshare` is called here; none if this machine does not permit it.
pub fn own_namespaces() -> Option<&'static [&'static str]> {
    static FOUND: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        OWN.into_iter().find(|options| {
            let tried = Command::new("unshare")
                .args(*options)
                .args(["--", "sh", "-c", &format!("{FURNISH} true")])
                .stdin(Stdio::null())
                .output();
            tried.is_ok_and(|output| output.status.success())
        })
    })
}

/// Waits until it is so, and says whether it became so.
pub fn within(limit: Duration, is_so: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > limit {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}

/// What a command came to.
pub struct Done {
    pub exit_code: i32,
    /// It left a job in the background, which may go on writing.
    pub has_job: bool,
    output: PathBuf,
}

impl Done {
    /// What it has written until now, to standard output and standard error.
    pub fn output(&self) -> String {
        read(&self.output)
    }
}

fn read(output: &Path) -> String {
    String::from_utf8_lossy(&fs::read(output).unwrap_or_default()).into_owned()
}

/// A shell with a folder.
pub struct Shell {
    child: Child,
    answers: mpsc::Receiver<String>,
    steps: PathBuf,
    count: u32,
    jobs: Vec<String>,
    is_alone: bool,
}

impl Shell {
    /// Starts in `folder`, with what is in `bin` before all other commands. `beside` is for temporary files and for what the shell is told.
    pub fn start(folder: &Path, bin: &Path, beside: &Path) -> Self {
        let namespaces = own_namespaces();
        let mut command = match namespaces {
            Some(options) => {
                let mut command = Command::new("unshare");
                command.args(options).args(["--", "bash"]);
                command
            }
            None => Command::new("bash"),
        };
        let furnish = if namespaces.is_some() { FURNISH } else { "" };
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(["--noprofile", "--norc", "-c"])
            .arg(format!("{furnish} {FILES} || exit\n{END}\n{LOOP}"))
            .current_dir(folder)
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| name == "RUSTUP_TOOLCHAIN"))
            .envs(home("CARGO_HOME", ".cargo"))
            .envs(home("RUSTUP_HOME", ".rustup"))
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", bin.display()))
            .env("HOME", folder)
            .env("TMPDIR", beside)
            .env("LANG", "C.UTF-8")
            .env("GUIDE_STEPS", beside)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, answers) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self {
            child,
            answers,
            steps: beside.to_owned(),
            count: 0,
            jobs: Vec::new(),
            is_alone: namespaces.is_some(),
        }
    }

    /// Runs a command; the error is that it does not end, or ends the shell.
    pub fn run(&mut self, text: &str, limit: Duration) -> Result<Done, String> {
        self.count += 1;
        let step = format!("step-{}", self.count);
        let output = self.steps.join(format!("{step}.out"));
        fs::write(self.steps.join(&step), format!("{text}\n")).unwrap();
        let told = self
            .child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(format!("{step}\n").as_bytes());
        let answer = told.map_err(|_| mpsc::RecvTimeoutError::Disconnected);
        let answer = answer.and_then(|()| self.answers.recv_timeout(limit));
        let answer = answer.map_err(|error| {
            let what = match error {
                mpsc::RecvTimeoutError::Timeout => format!("has not ended in {} s", limit.as_secs()),
                mpsc::RecvTimeoutError::Disconnected => "ended the shell".to_owned(),
            };
            format!("{what}, after this output:\n{}", read(&output))
        })?;
        let (exit_code, job) = answer.split_once(' ').unwrap();
        let has_job = !job.is_empty() && self.jobs.last().map(String::as_str) != Some(job);
        if has_job {
            self.jobs.push(job.to_owned());
        }
        Ok(Done {
            exit_code: exit_code.parse().unwrap(),
            has_job,
            output,
        })
    }

    /// Ends the jobs and the shell.
    pub fn end(mut self, limit: Duration) -> Result<(), String> {
        let done = self.run(&format!("sekisho_guide_end {}", self.jobs.join(" ")), limit)?;
        match done.output() {
            text if text.is_empty() => Ok(()),
            text => Err(text),
        }
    }
}

/// Where cargo and rustup are at home, which the page's own HOME must not hide.
fn home(name: &'static str, folder: &str) -> Option<(&'static str, PathBuf)> {
    let given = std::env::var_os(name).map(PathBuf::from);
    let path = given.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(folder)));
    Some((name, path?))
}

impl Drop for Shell {
    /// With the process namespace everything in it goes; elsewhere the shell's process group does.
    fn drop(&mut self) {
        if !self.is_alone {
            let group = format!("kill -9 -- -{}", self.child.id());
            let _ = Command::new("bash")
                .args(["-c", &group])
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
