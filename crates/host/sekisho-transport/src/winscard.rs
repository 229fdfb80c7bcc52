//! PC/SC, opened when it is asked for: PCSC-lite's calls behind safe types, and all unsafe code of this crate.
//!
//! Nothing links the library, so that what needs no reader builds and runs on a machine without it. Types, values and layouts are those of PCSC-lite's
//! `wintypes.h`, `pcsclite.h` and `winscard.h` (1.4 and later) on Linux.
#![expect(unsafe_code, reason = "a C library; cargo xtask tidy knows of this file")]

use core::ffi::{CStr, c_char, c_long, c_ulong, c_void};
use core::ptr;
use std::ffi::CString;
use std::sync::OnceLock;

use libloading::Library;

use crate::error::{PcscError, TransportError};

/// PCSC-lite's library by its soname. The loader looks for it.
const LIBRARY: &str = "libpcsclite.so.1";

/// `MAX_ATR_SIZE`.
const ATR_MAX: usize = 33;
/// `SCARD_SCOPE_USER`.
const SCOPE_USER: Dword = 0;
/// `SCARD_SHARE_EXCLUSIVE`.
const SHARE_EXCLUSIVE: Dword = 1;
/// `SCARD_PROTOCOL_T0`.
const PROTOCOL_T0: Dword = 1;
/// `SCARD_PROTOCOL_ANY`: T=0 or T=1.
const PROTOCOL_ANY: Dword = 3;
/// `SCARD_RESET_CARD`.
const RESET_CARD: Dword = 1;
/// `SCARD_STATE_UNAWARE`.
const STATE_UNAWARE: Dword = 0;
/// `SCARD_STATE_PRESENT`.
const STATE_PRESENT: Dword = 0x20;
/// Room for readers' names at first; more is made when they need it.
const NAMES: usize = 2048;

type Dword = c_ulong;
type Long = c_long;

/// `SCARD_IO_REQUEST`.
#[repr(C)]
struct IoRequest {
    protocol: Dword,
    length: Dword,
}

/// `SCARD_READERSTATE`.
#[repr(C)]
struct ReaderState {
    reader: *const c_char,
    user_data: *mut c_void,
    current_state: Dword,
    event_state: Dword,
    atr_len: Dword,
    atr: [u8; ATR_MAX],
}

/// The calls that are used, by their prototypes in `winscard.h`.
struct Calls {
    establish_context: unsafe extern "C" fn(Dword, *const c_void, *const c_void, *mut Long) -> Long,
    release_context: unsafe extern "C" fn(Long) -> Long,
    list_readers: unsafe extern "C" fn(Long, *const c_char, *mut c_char, *mut Dword) -> Long,
    get_status_change: unsafe extern "C" fn(Long, Dword, *mut ReaderState, Dword) -> Long,
    connect: unsafe extern "C" fn(Long, *const c_char, Dword, Dword, *mut Long, *mut Dword) -> Long,
    reconnect: unsafe extern "C" fn(Long, Dword, Dword, Dword, *mut Dword) -> Long,
    disconnect: unsafe extern "C" fn(Long, Dword) -> Long,
    status: unsafe extern "C" fn(
        Long,
        *mut c_char,
        *mut Dword,
        *mut Dword,
        *mut Dword,
        *mut u8,
        *mut Dword,
    ) -> Long,
    transmit: unsafe extern "C" fn(
        Long,
        *const IoRequest,
        *const u8,
        Dword,
        *mut IoRequest,
        *mut u8,
        *mut Dword,
    ) -> Long,
    /// Keeps the calls callable: they are code of the library, which is unmapped when this goes.
    _library: Library,
}

impl Calls {
    /// The library's calls; it is opened at the first call that succeeds, and then stays open until the process ends.
    fn get() -> Result<&'static Self, TransportError> {
        static CALLS: OnceLock<Calls> = OnceLock::new();
        if let Some(calls) = CALLS.get() {
            return Ok(calls);
        }
        let calls = Self::load(LIBRARY)?;
        Ok(CALLS.get_or_init(|| calls))
    }

    fn load(file: &str) -> Result<Self, TransportError> {
        let failed = |error: libloading::Error| TransportError::NoPcsc(reason(&error));
        // SAFETY: opening runs the library's initialisers. PCSC-lite's set up its own locks and log and ask nothing of the caller. A file of
        // that name which is something else could do anything, as it could if it had been linked.
        let library = unsafe { Library::new(file) }.map_err(failed)?;
        // SAFETY: each name is given the type that winscard.h declares for it, spelled out at `Calls`; the ABI of the soname's major version is fixed.
        // The function pointers are copied out of symbols that borrow the library; they go into the value that owns it, are private to it, and are
        // used through a reference to it alone, so that none outlives it.
        unsafe {
            Ok(Self {
                establish_context: *library.get(c"SCardEstablishContext").map_err(failed)?,
                release_context: *library.get(c"SCardReleaseContext").map_err(failed)?,
                list_readers: *library.get(c"SCardListReaders").map_err(failed)?,
                get_status_change: *library.get(c"SCardGetStatusChange").map_err(failed)?,
                connect: *library.get(c"SCardConnect").map_err(failed)?,
                reconnect: *library.get(c"SCardReconnect").map_err(failed)?,
                disconnect: *library.get(c"SCardDisconnect").map_err(failed)?,
                status: *library.get(c"SCardStatus").map_err(failed)?,
                transmit: *library.get(c"SCardTransmit").map_err(failed)?,
                _library: library,
            })
        }
    }
}

/// What the loader says, with its cause.
fn reason(error: &libloading::Error) -> String {
    core::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn check(code: Long) -> Result<(), PcscError> {
    // LONG has 32 or 64 bits; the codes are those of 32.
    match code.cast_unsigned() & 0xFFFF_FFFF {
        0 => Ok(()),
        code => Err(PcscError(u32::try_from(code).unwrap_or(u32::MAX))),
    }
}

fn dword(len: usize) -> Result<Dword, PcscError> {
    Dword::try_from(len).map_err(|_| PcscError::INSUFFICIENT_BUFFER)
}

/// What the library says it has written, if it is not more than there was room for.
fn written<T>(buffer: &[T], len: Dword) -> Result<&[T], PcscError> {
    usize::try_from(len)
        .ok()
        .and_then(|len| buffer.get(..len))
        .ok_or(PcscError::INSUFFICIENT_BUFFER)
}

/// A connection to PC/SC's service.
pub(crate) struct Context {
    calls: &'static Calls,
    handle: Long,
}

impl Context {
    pub(crate) fn establish() -> Result<Self, TransportError> {
        let calls = Calls::get()?;
        let mut handle = 0;
        // SAFETY: the two reserved pointers are null, as the interface wants; `handle` is writable for the time of the call.
        let code =
            unsafe { (calls.establish_context)(SCOPE_USER, ptr::null(), ptr::null(), &raw mut handle) };
        check(code)?;
        Ok(Self { calls, handle })
    }

    /// The readers' names.
    pub(crate) fn readers(&self) -> Result<Vec<CString>, PcscError> {
        let mut buffer = vec![0_u8; NAMES];
        loop {
            let mut len = dword(buffer.len())?;
            // SAFETY: the context is established until `self` is dropped; null means all groups; the buffer is writable and has the length that `len` says,
            // beyond which the library does not write.
            let code = unsafe {
                (self.calls.list_readers)(self.handle, ptr::null(), buffer.as_mut_ptr().cast(), &raw mut len)
            };
            match check(code) {
                Ok(()) => return Ok(split_names(written(&buffer, len)?)),
                Err(PcscError::NO_READERS_AVAILABLE) => return Ok(Vec::new()),
                Err(PcscError::INSUFFICIENT_BUFFER) if written(&buffer, len).is_err() => {
                    // A longer buffer each time, and none longer than this.
                    let wanted = usize::try_from(len).unwrap_or(usize::MAX);
                    if wanted > 64 * NAMES {
                        return Err(PcscError::INSUFFICIENT_BUFFER);
                    }
                    buffer.resize(wanted, 0);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether there is a card in a reader, as it is now.
    pub(crate) fn holds_card(&self, reader: &CStr) -> Result<bool, PcscError> {
        let mut state = ReaderState {
            reader: reader.as_ptr(),
            user_data: ptr::null_mut(),
            current_state: STATE_UNAWARE,
            event_state: 0,
            atr_len: 0,
            atr: [0; ATR_MAX],
        };
        // SAFETY: the context is established until `self` is dropped; one state is passed and its number said, it is writable, and its name ends with zero and
        // outlives the call, which does not wait (timeout 0) and keeps neither pointer.
        let code = unsafe { (self.calls.get_status_change)(self.handle, 0, &raw mut state, 1) };
        match check(code) {
            Ok(()) => Ok(state.event_state & STATE_PRESENT != 0),
            // Gone since it was listed.
            Err(PcscError::UNKNOWN_READER | PcscError::TIMEOUT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Connects to the card in a reader and holds it exclusively.
    pub(crate) fn connect(self, reader: &CStr) -> Result<Connection, PcscError> {
        let (mut handle, mut protocol) = (0, 0);
        // SAFETY: the context is established until `self` is dropped, which the connection owns; the name ends with zero and outlives the call; both results are
        // writable for the time of the call.
        let code = unsafe {
            (self.calls.connect)(
                self.handle,
                reader.as_ptr(),
                SHARE_EXCLUSIVE,
                PROTOCOL_ANY,
                &raw mut handle,
                &raw mut protocol,
            )
        };
        check(code)?;
        Ok(Connection {
            context: self,
            handle,
            protocol,
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context was established and is released here alone; a connection owns its context and is disconnected before.
        let _ = unsafe { (self.calls.release_context)(self.handle) };
    }
}

/// A card that is held exclusively. It is reset when this goes.
pub(crate) struct Connection {
    context: Context,
    handle: Long,
    protocol: Dword,
}

impl Connection {
    /// Whether the card speaks T=0.
    pub(crate) const fn is_t0(&self) -> bool {
        self.protocol == PROTOCOL_T0
    }

    /// Resets the card.
    pub(crate) fn reset(&mut self) -> Result<(), PcscError> {
        // SAFETY: the handle is connected until `self` is dropped; `protocol` is writable for the time of the call.
        let code = unsafe {
            (self.context.calls.reconnect)(
                self.handle,
                SHARE_EXCLUSIVE,
                PROTOCOL_ANY,
                RESET_CARD,
                &raw mut self.protocol,
            )
        };
        check(code)
    }

    /// The answer to reset.
    pub(crate) fn atr(&self) -> Result<Vec<u8>, PcscError> {
        let mut atr = [0; ATR_MAX];
        let (mut name_len, mut state, mut protocol, mut len) = (0, 0, 0, dword(ATR_MAX)?);
        // SAFETY: the handle is connected until `self` is dropped; no name is asked for, which a null pointer says; the other results are writable for the time of
        // the call, and `len` says how many bytes `atr` has.
        let code = unsafe {
            (self.context.calls.status)(
                self.handle,
                ptr::null_mut(),
                &raw mut name_len,
                &raw mut state,
                &raw mut protocol,
                atr.as_mut_ptr(),
                &raw mut len,
            )
        };
        check(code)?;
        Ok(written(&atr, len)?.to_vec())
    }

    /// Sends a command and gives what the card answers.
    pub(crate) fn transmit<'a>(&self, command: &[u8], buffer: &'a mut [u8]) -> Result<&'a [u8], PcscError> {
        let send = IoRequest {
            protocol: self.protocol,
            length: dword(size_of::<IoRequest>())?,
        };
        let mut len = dword(buffer.len())?;
        // SAFETY: the handle is connected until `self` is dropped; `send` and the command are readable and the buffer writable for the time of the call, each with
        // the length that is passed beside it; no header of the answer is asked for, which a null pointer says.
        let code = unsafe {
            (self.context.calls.transmit)(
                self.handle,
                &raw const send,
                command.as_ptr(),
                dword(command.len())?,
                ptr::null_mut(),
                buffer.as_mut_ptr(),
                &raw mut len,
            )
        };
        check(code)?;
        written(buffer, len)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle was connected and is disconnected here alone; its context goes afterwards.
        let _ = unsafe { (self.context.calls.disconnect)(self.handle, RESET_CARD) };
    }
}

/// Names that each end with a zero byte; an empty one ends the list.
fn split_names(list: &[u8]) -> Vec<CString> {
    list.split(|byte| *byte == 0)
        .take_while(|name| !name.is_empty())
        .filter_map(|name| CString::new(name).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_library_is_told_what_to_install() {
        let Err(error) = Calls::load("libpcsclite-that-nobody-has.so.1") else {
            panic!("there is no such library");
        };
        let text = error.to_string();
        for part in ["apt-get install pcscd", "libpcsclite-that-nobody-has.so.1"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_library_without_the_calls_is_refused() {
        // The C library is always there, and has none of them.
        let Err(error) = Calls::load("libc.so.6") else {
            panic!("the C library is no PC/SC");
        };
        assert!(error.to_string().contains("SCardEstablishContext"), "{error}");
    }

    #[test]
    fn names_end_with_zero_and_the_list_with_an_empty_one() {
        let names = |list: &[u8]| {
            split_names(list)
                .iter()
                .map(|name| name.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(b"A 00\0B 01\0\0"), ["A 00", "B 01"]);
        assert_eq!(names(b"A\0\0ignored\0"), ["A"]);
        assert!(names(b"\0").is_empty());
        assert!(names(b"").is_empty());
    }

    #[test]
    fn a_code_has_32_bits_whatever_the_size_of_long() {
        assert_eq!(check(0), Ok(()));
        assert_eq!(
            check(Long::from_ne_bytes(0x8010_001D_u64.to_ne_bytes())),
            Err(PcscError(0x8010_001D))
        );
        assert_eq!(
            check(Long::from(0x8010_001D_u32.cast_signed())),
            Err(PcscError(0x8010_001D))
        );
    }

    #[test]
    fn no_more_is_believed_than_there_was_room_for() {
        assert_eq!(written(&[1, 2, 3], 2), Ok(&[1, 2][..]));
        assert_eq!(written(&[1, 2, 3], 4), Err(PcscError::INSUFFICIENT_BUFFER));
    }
}
