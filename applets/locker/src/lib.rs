//! A locker: whoever has shown its code in this session finds what is in it, and nobody else. The sample of state that lasts for a session.
//!
//! | INS | command | data | answer |
//! |---|---|---|---|
//! | 20 | SHOW CODE | code(4) | -; 63CX when it is another, X tries are left; 6983 without any |
//! | 24 | CHANGE CODE | code(4) | -; 6982 unless the code has been shown, or there is none yet |
//! | 26 | FORGET | - | - the code has not been shown any more |
//! | 30 | PUT | up to 64 bytes | -; 6982 as above |
//! | 32 | GET | - | what is in it; 6982 as above, 6A88 when nothing is |
//!
//! Record 0 is the code, record 1 the tries that are left, record 2 what is in it. The state of a session is one byte: 1 when the code has been shown.
#![no_std]

use os_part_sdk::{
    Answer, Command, INS_NOT_SUPPORTED, NO_ERROR, StatusWord, WRONG_LENGTH, get, os_part, put, read,
    transient_get, transient_put,
};

const CODE: u32 = 0;
const TRIES: u32 = 1;
const CONTENT: u32 = 2;
const CONTENT_MAX: usize = 64;
const TRIES_MAX: u8 = 3;

const SECURITY_STATUS_NOT_SATISFIED: StatusWord = 0x6982;
const AUTHENTICATION_BLOCKED: StatusWord = 0x6983;
const REFERENCED_DATA_NOT_FOUND: StatusWord = 0x6A88;
const WRONG_CODE: StatusWord = 0x63C0;

/// Bytes of the session's state.
const STATE: usize = 1;

fn is_open() -> bool {
    let mut state = [0; STATE];
    transient_get(0, &mut state).is_ok() && state == [1]
}

fn is_same(one: [u8; 4], other: [u8; 4]) -> bool {
    one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn show(code: [u8; 4]) -> Result<StatusWord, StatusWord> {
    transient_put(0, &[0])?;
    let [left] = get(TRIES).unwrap_or([TRIES_MAX]);
    let own: [u8; 4] = get(CODE).ok_or(REFERENCED_DATA_NOT_FOUND)?;
    let left = left.checked_sub(1).ok_or(AUTHENTICATION_BLOCKED)?;
    if is_same(own, code) {
        put(TRIES, &[TRIES_MAX])?;
        transient_put(0, &[1])?;
        return Ok(NO_ERROR);
    }
    put(TRIES, &[left])?;
    // A warning: what has been put lasts.
    Ok(WRONG_CODE | StatusWord::from(left))
}

fn process(command: &Command<'_>, answer: &mut Answer<'_>) -> Result<StatusWord, StatusWord> {
    let code = || command.data.try_into().map_err(|_| WRONG_LENGTH);
    let is_allowed = match command.ins {
        0x24 => is_open() || get::<4>(CODE).is_none(),
        0x30 | 0x32 => is_open(),
        _ => true,
    };
    if !is_allowed {
        return Err(SECURITY_STATUS_NOT_SATISFIED);
    }
    match command.ins {
        0x20 => return show(code()?),
        0x24 => put(CODE, &code()?)?,
        0x26 => transient_put(0, &[0])?,
        0x30 if command.data.len() <= CONTENT_MAX => put(CONTENT, command.data)?,
        0x30 => return Err(WRONG_LENGTH),
        0x32 => {
            let mut content = [0; CONTENT_MAX];
            let len = read(CONTENT, &mut content)?.ok_or(REFERENCED_DATA_NOT_FOUND)?;
            answer.push(content.get(..len).unwrap_or_default())?;
        }
        _ => return Err(INS_NOT_SUPPORTED),
    }
    Ok(NO_ERROR)
}

os_part!(process, transient = STATE);
