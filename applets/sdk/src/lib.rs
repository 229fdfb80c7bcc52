//! Host ABI 2 and 3 (`docs/spec/os-part.md`) for OS parts: the command, the answer, the records of the part, what it keeps for a session, random bytes.
//!
//! A part implements one function from a [`Command`] to an [`Answer`] and names it in [`os_part!`]:
//!
//! ```
//! # use os_part_sdk::{Answer, Command, INS_NOT_SUPPORTED, NO_ERROR, StatusWord};
//! fn process(command: &Command<'_>, answer: &mut Answer<'_>) -> Result<StatusWord, StatusWord> {
//!     match (command.cla, command.ins) {
//!         (0x80, 0x10) => answer.push(command.data).map(|()| NO_ERROR),
//!         _ => Err(INS_NOT_SUPPORTED),
//!     }
//! }
//! ```
#![no_std]

/// Version of the host ABI of a part that keeps nothing for a session.
pub const ABI: i32 = 2;
/// Version of the host ABI of one that does.
pub const ABI_TRANSIENT: i32 = 3;
/// Bytes that a part may keep for a session.
pub const TRANSIENT_MAX: usize = 64;
/// Bytes of the buffer through which commands come and answers go.
pub const BUFFER_SIZE: usize = 1024;
/// Bytes of an answer without its status word.
pub const ANSWER_MAX: usize = BUFFER_SIZE - 2;
/// Bytes of a record at most; their indices are 0 to 15.
pub const RECORD_MAX: usize = 256;
/// Records at most.
pub const RECORDS_MAX: usize = 16;
/// Words of 4 bytes of the stack on which all functions run, at most.
pub const STACK_MAX: usize = 2048;

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "sekisho")]
unsafe extern "C" {
    #[link_name = "get"]
    fn host_get(index: u32, at: *mut u8, room: usize) -> i32;
    #[link_name = "put"]
    fn host_put(index: u32, at: *const u8, len: usize) -> i32;
    #[link_name = "remove"]
    fn host_remove(index: u32) -> i32;
    #[link_name = "random"]
    fn host_random(at: *mut u8, len: usize) -> i32;
    #[link_name = "version"]
    fn host_version() -> u32;
    #[link_name = "transient_get"]
    fn host_transient_get(offset: usize, at: *mut u8, len: usize) -> i32;
    #[link_name = "transient_put"]
    fn host_transient_put(offset: usize, at: *const u8, len: usize) -> i32;
    #[link_name = "forward"]
    fn host_forward(aid: *const u8, aid_len: usize, at: *const u8, len: usize) -> i32;
    #[link_name = "more"]
    fn host_more() -> i32;
    #[link_name = "caller"]
    fn host_caller(at: *mut u8, room: usize) -> i32;
    #[link_name = "announce"]
    fn host_announce(at: *const u8, len: usize) -> i32;
}

/// Without a secure element there are no records: for tests of a part's own logic on the machine where it is written.
#[cfg(not(target_arch = "wasm32"))]
mod nothing {
    pub(crate) unsafe fn host_get(_: u32, _: *mut u8, _: usize) -> i32 {
        -1
    }
    pub(crate) unsafe fn host_put(_: u32, _: *const u8, _: usize) -> i32 {
        -2
    }
    pub(crate) unsafe fn host_remove(_: u32) -> i32 {
        -2
    }
    pub(crate) unsafe fn host_random(_: *mut u8, _: usize) -> i32 {
        -2
    }
    pub(crate) unsafe fn host_version() -> u32 {
        0
    }
    pub(crate) unsafe fn host_transient_get(_: usize, _: *mut u8, _: usize) -> i32 {
        -2
    }
    pub(crate) unsafe fn host_transient_put(_: usize, _: *const u8, _: usize) -> i32 {
        -2
    }
    pub(crate) unsafe fn host_forward(_: *const u8, _: usize, _: *const u8, _: usize) -> i32 {
        -2
    }
    pub(crate) unsafe fn host_more() -> i32 {
        -2
    }
    pub(crate) unsafe fn host_caller(_: *mut u8, _: usize) -> i32 {
        0
    }
    pub(crate) unsafe fn host_announce(_: *const u8, _: usize) -> i32 {
        -2
    }
}
#[cfg(not(target_arch = "wasm32"))]
use nothing::{
    host_announce, host_caller, host_forward, host_get, host_more, host_put, host_random, host_remove,
    host_transient_get, host_transient_put, host_version,
};

/// Version of this part, as its manifest says.
pub fn version() -> u32 {
    // SAFETY: the host's function takes and touches nothing.
    unsafe { host_version() }
}

/// Reads record `index` into `out` and gives its length; `None` when there is none. [`NOT_ENOUGH_MEMORY`] when it does not fit, or there is no such
/// index.
pub fn read(index: u32, out: &mut [u8]) -> Result<Option<usize>, StatusWord> {
    // SAFETY: the host writes at most `room` bytes at a pointer that is good for them.
    match unsafe { host_get(index, out.as_mut_ptr(), out.len()) } {
        -1 => Ok(None),
        len => usize::try_from(len).map(Some).map_err(|_| NOT_ENOUGH_MEMORY),
    }
}

/// Reads record `index` if it is `N` bytes long.
pub fn get<const N: usize>(index: u32) -> Option<[u8; N]> {
    let mut value = [0; N];
    (read(index, &mut value) == Ok(Some(N))).then_some(value)
}

/// Writes record `index`; it lasts if the command succeeds.
pub fn put(index: u32, value: &[u8]) -> Result<(), StatusWord> {
    // SAFETY: the host reads `len` bytes at a pointer that is good for them.
    done(unsafe { host_put(index, value.as_ptr(), value.len()) })
}

/// Removes record `index`; it is gone if the command succeeds.
pub fn remove(index: u32) -> Result<(), StatusWord> {
    // SAFETY: the host's function touches no memory.
    done(unsafe { host_remove(index) })
}

/// Fills `out` with random bytes: 64 in one command at most.
pub fn random(out: &mut [u8]) -> Result<(), StatusWord> {
    // SAFETY: the host writes `len` bytes at a pointer that is good for them.
    done(unsafe { host_random(out.as_mut_ptr(), out.len()) })
}

/// Reads what the part keeps for this session, from `offset` on: zeros when the session begins. [`NOT_ENOUGH_MEMORY`] for what is outside the bytes that it
/// asks for in [`os_part!`].
pub fn transient_get(offset: usize, out: &mut [u8]) -> Result<(), StatusWord> {
    // SAFETY: the host writes `len` bytes at a pointer that is good for them.
    done(unsafe { host_transient_get(offset, out.as_mut_ptr(), out.len()) })
}

/// Keeps bytes for this session, whatever status word the command is answered with: until the part is selected anew, its logical channel is closed or
/// reset, or another version is activated.
pub fn transient_put(offset: usize, value: &[u8]) -> Result<(), StatusWord> {
    // SAFETY: the host reads `len` bytes at a pointer that is good for them.
    done(unsafe { host_transient_put(offset, value.as_ptr(), value.len()) })
}

/// Sends a command, a whole short C-APDU, to another application of the container. What this gives is what the part is to answer with; it is called again with the other one's answer, as
/// [`Resume::Answer`], in a fresh instance: what it has to remember until then it keeps with [`transient_put`]. What both write lasts together, if this part's last word is one of success or warning.
/// [`CONDITIONS_NOT_SATISFIED`] when an application has called this one, when it has called too often, or when these are no AID and no command.
pub fn forward(aid: &[u8], command: &[u8]) -> Result<StatusWord, StatusWord> {
    // SAFETY: the host reads so many bytes at pointers that are good for them.
    match unsafe { host_forward(aid.as_ptr(), aid.len(), command.as_ptr(), command.len()) } {
        0 => Ok(FORWARDED),
        _ => Err(CONDITIONS_NOT_SATISFIED),
    }
}

/// Says that the answer goes on behind what the part answers now with [`NO_ERROR`]: it is called again, as [`Resume::Piece`], in a fresh instance, when that has been fetched.
/// [`NOT_ENOUGH_MEMORY`] where it cannot: under secure messaging or a secure channel, and for an application.
pub fn more() -> Result<(), StatusWord> {
    // SAFETY: the host's function takes and touches nothing.
    done(unsafe { host_more() })
}

/// AID of the application that calls, in `room`; of no bytes when an interface does.
pub fn caller(room: &mut [u8; 16]) -> &[u8] {
    // SAFETY: the host writes at most so many bytes at a pointer that is good for them.
    let len = unsafe { host_caller(room.as_mut_ptr(), room.len()) };
    usize::try_from(len)
        .ok()
        .and_then(|len| room.get(..len))
        .unwrap_or_default()
}

/// Asks that the device be told, when the reader has gone, what this application says of its visit: up to 32 bytes, the last ones that are said, if the command succeeds.
/// [`CONDITIONS_NOT_SATISFIED`] when no contactless reader has sent the command, when another application has called this one, and for more bytes.
pub fn announce(parameters: &[u8]) -> Result<(), StatusWord> {
    // SAFETY: the host reads `len` bytes at a pointer that is good for them.
    match unsafe { host_announce(parameters.as_ptr(), parameters.len()) } {
        0 => Ok(()),
        _ => Err(CONDITIONS_NOT_SATISFIED),
    }
}

/// Why a part is called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume<'a> {
    /// The application that it has [sent a command to](forward) has answered.
    Answer {
        /// Response data; none with an error.
        data: &'a [u8],
        /// The status word.
        sw: StatusWord,
    },
    /// The piece before has been fetched. What is put into records now does not last.
    Piece,
}

fn done(answer: i32) -> Result<(), StatusWord> {
    if answer == 0 {
        Ok(())
    } else {
        Err(NOT_ENOUGH_MEMORY)
    }
}

/// SW1SW2. 61XX, 65XX, 6CXX and what is below 6000 are the secure element's own.
pub type StatusWord = u16;
/// In the place of a status word: another application has been [sent a command](forward).
pub const FORWARDED: StatusWord = 0;
/// No error.
pub const NO_ERROR: StatusWord = 0x9000;
/// Wrong length.
pub const WRONG_LENGTH: StatusWord = 0x6700;
/// Conditions of use not satisfied.
pub const CONDITIONS_NOT_SATISFIED: StatusWord = 0x6985;
/// Incorrect parameters in the command data field.
pub const INCORRECT_DATA: StatusWord = 0x6A80;
/// Not enough memory.
pub const NOT_ENOUGH_MEMORY: StatusWord = 0x6A84;
/// Incorrect parameters P1-P2.
pub const INCORRECT_P1P2: StatusWord = 0x6A86;
/// Instruction not supported.
pub const INS_NOT_SUPPORTED: StatusWord = 0x6D00;
/// Class not supported.
pub const CLA_NOT_SUPPORTED: StatusWord = 0x6E00;

/// A C-APDU, short or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// CLA, as it came.
    pub cla: u8,
    /// INS.
    pub ins: u8,
    /// P1.
    pub p1: u8,
    /// P2.
    pub p2: u8,
    /// The command data field.
    pub data: &'a [u8],
    /// Ne: how many bytes the sender expects at most, 1 to 65,536; `None` without an Le field.
    pub ne: Option<u32>,
}

impl<'a> Command<'a> {
    /// Reads a C-APDU (ISO/IEC 7816-3, 12.1.3); the secure element has checked it before.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let ([cla, ins, p1, p2], body) = bytes.split_first_chunk()?;
        let (data, le): (&[u8], &[u8]) = match body {
            [] => (&[], &[]),
            [_] => (&[], body),
            [0, le @ ..] if le.len() == 2 => (&[], le),
            [0, high, low, rest @ ..] => {
                rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?
            }
            [lc, rest @ ..] => rest.split_at_checked(usize::from(*lc))?,
        };
        let ne = match le {
            [] => None,
            [0] => Some(0x100),
            [le] => Some(u32::from(*le)),
            [0, 0] => Some(0x1_0000),
            [high, low] => Some(u32::from(u16::from_be_bytes([*high, *low]))),
            _ => return None,
        };
        Some(Self {
            cla: *cla,
            ins: *ins,
            p1: *p1,
            p2: *p2,
            data,
            ne,
        })
    }
}

/// Response data, up to [`ANSWER_MAX`] bytes. What the sender's Ne does not take waits in the secure element for GET RESPONSE.
pub struct Answer<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl<'a> Answer<'a> {
    /// An answer in `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, len: 0 }
    }

    /// Appends `bytes`.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StatusWord> {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        copy(room.get_mut(..bytes.len()).ok_or(NOT_ENOUGH_MEMORY)?, bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Appends a number, big endian.
    pub fn push_u32(&mut self, number: u32) -> Result<(), StatusWord> {
        self.push(&number.to_be_bytes())
    }

    /// The answer so far.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Copies byte by byte: WebAssembly 1.0 has no instruction for it, and the function that the compiler would put in its place is longer than all of this.
fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        // SAFETY: a reference is good for a write. Volatile, so that the loop stays a loop.
        unsafe { core::ptr::write_volatile(to, *from) };
    }
}

/// Runs `process` on the command in the first `len` bytes of `buffer`, with room for the answer beside it; gives the R-APDU's length.
pub fn run(
    buffer: &mut [u8; BUFFER_SIZE],
    room: &mut [u8; ANSWER_MAX],
    len: usize,
    process: impl FnOnce(&Command<'_>, &mut Answer<'_>) -> Result<StatusWord, StatusWord>,
) -> usize {
    let mut answer = Answer::new(room);
    let command = buffer.get(..len).and_then(Command::parse);
    let result = command.map_or(Err(WRONG_LENGTH), |command| process(&command, &mut answer));
    let (data, sw) = match result {
        Ok(sw) => (answer.as_bytes(), sw),
        Err(sw) => (&[][..], sw),
    };
    let (to, rest) = buffer.split_at_mut(data.len().min(ANSWER_MAX));
    copy(to, data);
    copy(rest, &sw.to_be_bytes());
    to.len() + 2
}

/// As [`run`], for a part that may send commands to other applications.
pub fn run_or_forward(
    buffer: &mut [u8; BUFFER_SIZE],
    room: &mut [u8; ANSWER_MAX],
    len: usize,
    process: impl FnOnce(&Command<'_>, &mut Answer<'_>) -> Result<StatusWord, StatusWord>,
) -> usize {
    let mut answer = Answer::new(room);
    let command = buffer.get(..len).and_then(Command::parse);
    let result = command.map_or(Err(WRONG_LENGTH), |command| process(&command, &mut answer));
    give(buffer, &answer, result)
}

/// As [`run_or_forward`], behind what has been sent to another application, or behind a piece: `why` and the first `len` bytes of `buffer` say which.
pub fn go_on(
    buffer: &mut [u8; BUFFER_SIZE],
    room: &mut [u8; ANSWER_MAX],
    (why, len): (i32, usize),
    resume: impl FnOnce(Resume<'_>, &mut Answer<'_>) -> Result<StatusWord, StatusWord>,
) -> usize {
    let mut answer = Answer::new(room);
    let came = buffer.get(..len).and_then(|bytes| bytes.split_last_chunk::<2>());
    let result = match (why, came) {
        (0, Some((data, sw))) => {
            let sw = u16::from_be_bytes(*sw);
            resume(Resume::Answer { data, sw }, &mut answer)
        }
        (0, None) => Err(WRONG_LENGTH),
        _ => resume(Resume::Piece, &mut answer),
    };
    give(buffer, &answer, result)
}

/// Puts what a part answers into the buffer: its length, 0 when another application is to answer first.
fn give(
    buffer: &mut [u8; BUFFER_SIZE],
    answer: &Answer<'_>,
    result: Result<StatusWord, StatusWord>,
) -> usize {
    let (data, sw) = match result {
        Ok(FORWARDED) => return 0,
        Ok(sw) => (answer.as_bytes(), sw),
        Err(sw) => (&[][..], sw),
    };
    let (to, rest) = buffer.split_at_mut(data.len().min(ANSWER_MAX));
    copy(to, data);
    copy(rest, &sw.to_be_bytes());
    to.len() + 2
}

/// Makes the exports of ABI 2 or, with `transient = ` a number of bytes, of ABI 3 from a function `fn(&Command, &mut Answer) -> Result<StatusWord, StatusWord>`: `Ok` gives the answer's bytes with a status word
/// of success or warning, `Err` a status word alone. What the part wrote lasts with 9000, 62XX and 63XX.
///
/// With `resume = ` a function `fn(Resume, &mut Answer) -> Result<StatusWord, StatusWord>` behind that, the part goes on behind what it has sent to another application ([`forward`]), and
/// behind a piece of its answer ([`more`]).
///
/// With `records = ` a number and `stack = ` words of 4 bytes behind that, a command takes no more of the secure element's RAM than for these: 256 bytes a record, and for the stack 4 a word.
/// More stack than that is a trap, so it is to be tried with what goes deepest.
#[macro_export]
macro_rules! os_part {
    ($process:path, transient = $len:expr, resume = $resume:path, records = $records:expr, stack = $words:expr) => {
        const _: () = assert!($records <= $crate::RECORDS_MAX, "more than there are");
        const _: () = assert!($words >= 16 && $words <= $crate::STACK_MAX, "no such stack");

        #[unsafe(export_name = "records")]
        extern "C" fn __os_part_records() -> usize {
            $records
        }

        #[unsafe(export_name = "stack")]
        extern "C" fn __os_part_stack() -> usize {
            $words
        }

        $crate::os_part!($process, transient = $len, resume = $resume);
    };
    ($process:path, transient = $len:expr, resume = $resume:path) => {
        $crate::os_part!(@ $crate::ABI_TRANSIENT);
        $crate::os_part!(@ transient $len);
        $crate::os_part!(@ process $crate::run_or_forward, $process);

        #[unsafe(export_name = "resume")]
        extern "C" fn __os_part_resume(why: i32, len: usize) -> usize {
            // SAFETY: there is one thread, and no other reference to the two while these live.
            let (buffer, room) = unsafe {
                (
                    &mut *(&raw mut __OS_PART_BUFFER),
                    &mut *(&raw mut __OS_PART_ROOM),
                )
            };
            $crate::go_on(buffer, room, (why, len), $resume)
        }
    };
    ($process:path, transient = $len:expr) => {
        $crate::os_part!(@ $crate::ABI_TRANSIENT);
        $crate::os_part!(@ transient $len);
        $crate::os_part!(@ process $crate::run, $process);
    };
    ($process:path) => {
        $crate::os_part!(@ $crate::ABI);
        $crate::os_part!(@ process $crate::run, $process);
    };
    (@ transient $len:expr) => {
        const _: () = assert!($len <= $crate::TRANSIENT_MAX, "more than a session has");

        #[unsafe(export_name = "transient")]
        extern "C" fn __os_part_transient() -> usize {
            $len
        }
    };
    (@ process $run:path, $process:path) => {
        #[unsafe(export_name = "process")]
        extern "C" fn __os_part_process(len: usize) -> usize {
            // SAFETY: there is one thread, and no other reference to the two while these live.
            let (buffer, room) = unsafe {
                (
                    &mut *(&raw mut __OS_PART_BUFFER),
                    &mut *(&raw mut __OS_PART_ROOM),
                )
            };
            $run(buffer, room, len, $process)
        }
    };
    (@ $abi:expr) => {
        static mut __OS_PART_BUFFER: [u8; $crate::BUFFER_SIZE] = [0; $crate::BUFFER_SIZE];
        static mut __OS_PART_ROOM: [u8; $crate::ANSWER_MAX] = [0; $crate::ANSWER_MAX];

        #[unsafe(export_name = "abi")]
        extern "C" fn __os_part_abi() -> i32 {
            $abi
        }

        #[unsafe(export_name = "buffer")]
        extern "C" fn __os_part_buffer() -> *const u8 {
            (&raw const __OS_PART_BUFFER).cast()
        }

        #[cfg(target_arch = "wasm32")]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            core::arch::wasm32::unreachable()
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: [u8; 4] = [0x80, 0x10, 0x20, 0x30];

    fn parse(body: &[u8]) -> Option<([u8; 4], usize, Option<u32>)> {
        let mut bytes = [0; 2048];
        let all = bytes.get_mut(..4 + body.len())?;
        all[..4].copy_from_slice(&HEAD);
        all[4..].copy_from_slice(body);
        let command = Command::parse(all)?;
        let head = [command.cla, command.ins, command.p1, command.p2];
        Some((head, command.data.len(), command.ne))
    }

    #[test]
    fn every_form_of_a_command() {
        assert_eq!(parse(&[]), Some((HEAD, 0, None)));
        assert_eq!(parse(&[0]), Some((HEAD, 0, Some(256))));
        assert_eq!(parse(&[9]), Some((HEAD, 0, Some(9))));
        assert_eq!(parse(&[2, 1, 2]), Some((HEAD, 2, None)));
        assert_eq!(parse(&[2, 1, 2, 7]), Some((HEAD, 2, Some(7))));
        assert_eq!(parse(&[0, 0, 0]), Some((HEAD, 0, Some(65536))));
        assert_eq!(parse(&[0, 1, 0]), Some((HEAD, 0, Some(256))));
        let mut long = [0x5A; 303];
        long[..3].copy_from_slice(&[0, 1, 0x2A]);
        assert_eq!(parse(&long[..301]), Some((HEAD, 298, None)));
        assert_eq!(parse(&long), Some((HEAD, 298, Some(0x5A5A))));
        assert_eq!(parse(&[5, 1, 2]), None);
        assert_eq!(Command::parse(&HEAD[..3]), None);
    }

    #[test]
    fn what_a_part_goes_on_behind() {
        let mut buffer = [0; BUFFER_SIZE];
        let mut room = [0; ANSWER_MAX];
        buffer[..4].copy_from_slice(&[7, 8, 0x6A, 0x80]);
        let say = |why: Resume<'_>, answer: &mut Answer<'_>| {
            if let Resume::Answer { data, sw } = why {
                answer.push(data)?;
                answer.push(&sw.to_be_bytes())?;
            }
            Ok(NO_ERROR)
        };
        assert_eq!(go_on(&mut buffer, &mut room, (0, 4), say), 6);
        assert_eq!(buffer[..6], [7, 8, 0x6A, 0x80, 0x90, 0x00]);
        assert_eq!(go_on(&mut buffer, &mut room, (1, 0), say), 2);
        assert_eq!(go_on(&mut buffer, &mut room, (0, 1), say), 2);
        assert_eq!(buffer[..2], WRONG_LENGTH.to_be_bytes());
        assert_eq!(go_on(&mut buffer, &mut room, (1, 0), |_, _| Ok(FORWARDED)), 0);
        assert_eq!(forward(&[7; 5], &HEAD), Err(CONDITIONS_NOT_SATISFIED));
    }

    #[test]
    fn an_answer_is_as_long_as_the_buffer_and_no_longer() {
        let mut buffer = [0; BUFFER_SIZE];
        let mut room = [0; ANSWER_MAX];
        buffer[..4].copy_from_slice(&HEAD);
        let fill = |len: usize| {
            move |_: &Command<'_>, answer: &mut Answer<'_>| {
                for _ in 0..len {
                    answer.push(&[7])?;
                }
                Ok(NO_ERROR)
            }
        };
        assert_eq!(run(&mut buffer, &mut room, 4, fill(ANSWER_MAX)), BUFFER_SIZE);
        assert_eq!(buffer[ANSWER_MAX..], [0x90, 0x00]);
        assert_eq!(run(&mut buffer, &mut room, 4, fill(ANSWER_MAX + 1)), 2);
        assert_eq!(buffer[..2], NOT_ENOUGH_MEMORY.to_be_bytes());
    }
}
