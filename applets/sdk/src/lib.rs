//! Host ABI 1 (`docs/spec/os-part.md`) for OS parts: the buffer, the command in it, the records of the part.
//!
//! A part implements one function from [`Command`] to [`Answer`] and names it in [`os_part!`].
#![no_std]

/// Size of the buffer through which commands come and answers go.
pub const BUFFER_SIZE: usize = 1024;

#[link(wasm_import_module = "sekisho")]
unsafe extern "C" {
    #[link_name = "get"]
    fn host_get(index: i32, at: *mut u8, room: i32) -> i32;
    #[link_name = "put"]
    fn host_put(index: i32, at: *const u8, len: i32) -> i32;
    #[link_name = "version"]
    fn host_version() -> i32;
}

/// Version of this part, as its manifest says.
pub fn version() -> u32 {
    // SAFETY: the host's function takes and touches nothing.
    unsafe { host_version() }.cast_unsigned()
}

/// Reads record `index` if it is `N` bytes long.
pub fn get<const N: usize>(index: i32) -> Option<[u8; N]> {
    let mut value = [0; N];
    // SAFETY: the host writes at most `room` bytes at a pointer that is good for `N`.
    let len = unsafe { host_get(index, value.as_mut_ptr(), i32::try_from(N).ok()?) };
    (usize::try_from(len) == Ok(N)).then_some(value)
}

/// Writes record `index`; it lasts if the command succeeds.
pub fn put(index: i32, value: &[u8]) -> Result<(), StatusWord> {
    let len = i32::try_from(value.len()).map_err(|_| NOT_ENOUGH_MEMORY)?;
    // SAFETY: the host reads `len` bytes at a pointer that is good for them.
    if unsafe { host_put(index, value.as_ptr(), len) } == 0 {
        Ok(())
    } else {
        Err(NOT_ENOUGH_MEMORY)
    }
}

/// SW1SW2.
pub type StatusWord = u16;
/// No error.
pub const NO_ERROR: StatusWord = 0x9000;
/// Wrong length.
pub const WRONG_LENGTH: StatusWord = 0x6700;
/// Incorrect parameters in the command data field.
pub const INCORRECT_DATA: StatusWord = 0x6A80;
/// Not enough memory.
pub const NOT_ENOUGH_MEMORY: StatusWord = 0x6A84;
/// Instruction not supported.
pub const INS_NOT_SUPPORTED: StatusWord = 0x6D00;

/// A short C-APDU.
pub struct Command<'a> {
    /// INS.
    pub ins: u8,
    /// The command data field.
    pub data: &'a [u8],
}

impl<'a> Command<'a> {
    /// Reads a short C-APDU; the SE has checked it before.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let ([_, ins, _, _], body) = bytes.split_first_chunk()?;
        let data = match body {
            [] | [_] => &[],
            [0, ..] => return None,
            [lc, rest @ ..] => rest.get(..usize::from(*lc))?,
        };
        Some(Self { ins: *ins, data })
    }
}

/// Response data of up to eight bytes.
#[derive(Default)]
pub struct Answer {
    bytes: [u8; 8],
    len: usize,
}

impl Answer {
    /// An answer of one number.
    pub fn number(value: u32) -> Self {
        let mut answer = Self::default();
        answer.bytes[..4].copy_from_slice(&value.to_be_bytes());
        answer.len = 4;
        answer
    }

    /// The answer's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Makes the exports of ABI 1 from a function `fn(&Command) -> Result<Answer, StatusWord>`.
#[macro_export]
macro_rules! os_part {
    ($process:path) => {
        static mut BUFFER: [u8; $crate::BUFFER_SIZE] = [0; $crate::BUFFER_SIZE];

        #[unsafe(no_mangle)]
        extern "C" fn abi() -> i32 {
            1
        }

        #[unsafe(no_mangle)]
        extern "C" fn buffer() -> i32 {
            (&raw const BUFFER) as i32
        }

        #[unsafe(no_mangle)]
        extern "C" fn process(len: i32) -> i32 {
            // SAFETY: there is one thread, and no other reference to the buffer while this one lives.
            let buffer = unsafe { &mut *(&raw mut BUFFER) };
            let command = usize::try_from(len)
                .ok()
                .and_then(|len| buffer.get(..len))
                .and_then($crate::Command::parse);
            let result = command.map_or(Err($crate::WRONG_LENGTH), |command| $process(&command));
            let (answer, sw) = match result {
                Ok(answer) => (answer, $crate::NO_ERROR),
                Err(sw) => ($crate::Answer::default(), sw),
            };
            let data = answer.as_bytes();
            buffer[..data.len()].copy_from_slice(data);
            buffer[data.len()..data.len() + 2].copy_from_slice(&sw.to_be_bytes());
            data.len() as i32 + 2
        }

        #[cfg(target_arch = "wasm32")]
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            core::arch::wasm32::unreachable()
        }
    };
}
