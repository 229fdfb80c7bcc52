//! The paging store on SQLite and on a PostgreSQL of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sekisho_link::SeId;
use sekisho_store::StoreError;
use sekisho_store::paging::{Intent, Node, PagingStore, Target};

/// A PostgreSQL server in a folder, on a Unix socket alone. Stopped when dropped.
struct Postgres {
    folder: tempfile::TempDir,
    bin: PathBuf,
}

fn bin() -> PathBuf {
    let versions = Path::new("/usr/lib/postgresql");
    let mut found: Vec<_> = std::fs::read_dir(versions)
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .expect("PostgreSQL is needed: apt-get install postgresql")
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made.
fn command(program: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.uid() == 0
    });
    if is_root {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Postgres {
    fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let bin = bin();
        let data = folder.path().join("data");
        run(command(&bin.join("initdb")).arg("-D").arg(&data).args([
            "-A",
            "trust",
            "-U",
            "sekisho",
            "--no-sync",
        ]));
        let options = format!("-k {} -c listen_addresses=''", folder.path().display());
        run(command(&bin.join("pg_ctl"))
            .arg("-D")
            .arg(&data)
            .args(["-w", "-s", "-o", &options, "-l"])
            .arg(folder.path().join("log"))
            .arg("start"));
        Self { folder, bin }
    }

    fn url(&self) -> String {
        let socket = self.folder.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://sekisho@{socket}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.folder.path().join("data");
        let _ = command(&self.bin.join("pg_ctl"))
            .arg("-D")
            .arg(data)
            .args(["-m", "immediate", "-s", "stop"])
            .output();
    }
}

fn se_id(n: u32) -> SeId {
    let mut id = [0; 10];
    id[..4].copy_from_slice(&n.to_be_bytes());
    SeId(id)
}

fn intent(to: Target) -> Intent {
    Intent {
        order: 0,
        to,
        kind: 1,
        argument: 60,
        not_before: None,
        expires: Some(4_000_000_000),
        withdrawn: false,
    }
}

async fn everything(store: PagingStore) {
    let ids: Vec<_> = (0..2500).map(se_id).collect();
    assert_eq!(store.register(&ids, 7, false).await.unwrap(), 2500);
    assert_eq!(store.register(&ids[..10], 7, false).await.unwrap(), 0);
    let all = store.changes(0).await.unwrap();
    assert_eq!(all.devices.len(), 2500);
    let mut indices: Vec<_> = all.devices.iter().map(|device| device.index).collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), 2500);
    assert_eq!(store.changes(all.upto).await.unwrap().upto, all.upto);

    let mut one = store.device(se_id(3)).await.unwrap();
    assert!(matches!(
        store.device(se_id(9999)).await,
        Err(StoreError::NotFound(_))
    ));
    one.domain = 9;
    one.generation = 2;
    one.start_key = vec![1, 2, 3];
    store.set_device(&one).await.unwrap();
    assert_eq!(store.device(se_id(3)).await.unwrap(), one);

    let orders = [Target::Everybody, Target::Group(7), Target::Device(one.index)];
    for (expected, to) in (1..).zip(orders) {
        assert_eq!(store.post(intent(to)).await.unwrap(), expected);
    }
    store.withdraw(2).await.unwrap();
    assert!(store.withdraw(20).await.is_err());
    let changes = store.changes(all.upto).await.unwrap();
    assert_eq!(changes.devices, [one]);
    assert_eq!(
        changes
            .intents
            .iter()
            .map(|intent| intent.withdrawn)
            .collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(changes.intents[2].to, orders[2]);
    rotation(&store).await;
    store.close().await;
}

/// A new epoch issues when every live node has read it, and not before.
async fn rotation(store: &PagingStore) {
    assert_eq!(store.add_key(0, &[1; 16]).await.unwrap(), 1);
    let first = store.changes(0).await.unwrap();
    assert!(first.keys[0].issues);
    let node = |name: &str, seen, change| Node {
        name: name.to_owned(),
        domain: 0,
        seen,
        change,
    };
    store.see(&node("a", 1000, first.upto)).await.unwrap();
    store.see(&node("b", 1000, first.upto)).await.unwrap();
    store.see(&node("gone", 100, 0)).await.unwrap();
    assert_eq!(store.add_key(0, &[2; 16]).await.unwrap(), 2);
    let second = store.changes(first.upto).await.unwrap();
    assert_eq!(
        second.keys.iter().map(|key| key.issues).collect::<Vec<_>>(),
        [true, false]
    );
    store.see(&node("a", 1001, second.upto)).await.unwrap();
    assert!(!store.issue_ready(1001).await.unwrap());
    store.see(&node("b", 1001, second.upto)).await.unwrap();
    assert!(store.issue_ready(1001).await.unwrap());
    assert!(!store.issue_ready(1001).await.unwrap());
    assert!(store.retire(0, 2).await.is_err());
    store.retire(0, 1).await.unwrap();
    let last = store.changes(second.upto).await.unwrap();
    assert_eq!(
        last.keys
            .iter()
            .map(|key| (key.epoch, key.issues))
            .collect::<Vec<_>>(),
        [(2, true)]
    );
    assert_eq!(store.nodes().await.unwrap().len(), 3);
}

#[tokio::test]
async fn on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("paging.sqlite").display());
    everything(PagingStore::open(&url).await.unwrap()).await;
    // What is there is there again.
    let store = PagingStore::open(&url).await.unwrap();
    assert_eq!(store.changes(0).await.unwrap().devices.len(), 2500);
}

#[tokio::test]
async fn on_postgresql() {
    let postgres = Postgres::start();
    everything(PagingStore::open(&postgres.url()).await.unwrap()).await;
}

/// Numbers of changes become visible in their order, whoever writes: a reader that has seen one has seen all below.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_hide_no_change_from_a_reader() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let reader = PagingStore::open(&url).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = PagingStore::open(&url).await.unwrap();
        writers.spawn(async move {
            for _ in 0..50 {
                store.post(intent(Target::Everybody)).await.unwrap();
            }
        });
    }
    let (mut upto, mut seen) = (0, 0);
    while seen < 200 {
        let changes = reader.changes(upto).await.unwrap();
        seen += changes.intents.len();
        upto = changes.upto;
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!((seen, upto), (200, 200));
}
