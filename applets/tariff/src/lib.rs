//! A tariff over a meter, which is another application: what is drawn is counted there and paid here, both or neither. The sample of an application that calls another one, and of a long answer.
//!
//! | INS | command | data | answer |
//! |---|---|---|---|
//! | 10 | SET METER | AID of the meter | - |
//! | 12 | SET PRICE | price of a unit(2) | - |
//! | 14 | PAY IN | amount(4) | credit(4); 6A80 when it is more than fits |
//! | 20 | DRAW | units(2) | credit(4), register of the meter(4); 6A88 without a meter; 6985 when the credit does not pay it; the meter's own word when it refuses |
//! | 30 | TABLE | - | price of 1 to 500 units(4 each), in pieces of 50 |
//!
//! What PAY IN and DRAW leave of the credit, the device is told too when a contactless reader has asked for it.
//!
//! Record 0 is the AID, record 1 the price, record 2 the credit. The state of a session: units that are being drawn(2), or how many prices have been given(2).
#![no_std]

use os_part_sdk::{
    Answer, CONDITIONS_NOT_SATISFIED, Command, INCORRECT_DATA, INS_NOT_SUPPORTED, NO_ERROR, Resume,
    StatusWord, WRONG_LENGTH, announce, forward, get, more, os_part, put, read, transient_get, transient_put,
};

const METER: u32 = 0;
const PRICE: u32 = 1;
const CREDIT: u32 = 2;

/// ADD of the meter.
const ADD: [u8; 5] = [0x80, 0x22, 0, 0, 2];
const ROWS: u16 = 500;
const ROWS_AT_ONCE: u16 = 50;

const REFERENCED_DATA_NOT_FOUND: StatusWord = 0x6A88;

/// Bytes of the session's state.
const STATE: usize = 2;

fn price(units: u16) -> u32 {
    u32::from(units) * u32::from(get(PRICE).map_or(0, u16::from_be_bytes))
}

fn credit() -> u32 {
    get(CREDIT).map_or(0, u32::from_be_bytes)
}

/// Answers with a credit. The device that a reader has used hears it too; anybody else's does not, and that is no error.
fn tell(credit: u32, answer: &mut Answer<'_>) -> Result<(), StatusWord> {
    let _ = announce(&credit.to_be_bytes());
    answer.push_u32(credit)
}

/// Says at once whether it can be paid; it is paid when the meter has counted it.
fn draw(units: [u8; 2]) -> Result<StatusWord, StatusWord> {
    let mut meter = [0; 16];
    let len = read(METER, &mut meter)?.ok_or(REFERENCED_DATA_NOT_FOUND)?;
    if price(u16::from_be_bytes(units)) > credit() {
        return Err(CONDITIONS_NOT_SATISFIED);
    }
    transient_put(0, &units)?;
    let [cla, ins, p1, p2, lc] = ADD;
    let command = [cla, ins, p1, p2, lc, units[0], units[1], 0];
    forward(meter.get(..len).unwrap_or_default(), &command)
}

/// The next prices, behind those that have been given.
fn table(answer: &mut Answer<'_>, given: u16) -> Result<StatusWord, StatusWord> {
    let end = ROWS.min(given + ROWS_AT_ONCE);
    for units in given..end {
        answer.push_u32(price(units + 1))?;
    }
    transient_put(0, &end.to_be_bytes())?;
    if end < ROWS {
        more()?;
    }
    Ok(NO_ERROR)
}

fn process(command: &Command<'_>, answer: &mut Answer<'_>) -> Result<StatusWord, StatusWord> {
    match command.ins {
        0x10 if (5..=16).contains(&command.data.len()) => put(METER, command.data)?,
        0x12 if command.data.len() == 2 => put(PRICE, command.data)?,
        0x14 => {
            let amount = command.data.try_into().map_err(|_| WRONG_LENGTH)?;
            let sum = credit().checked_add(u32::from_be_bytes(amount));
            let sum = sum.ok_or(INCORRECT_DATA)?;
            put(CREDIT, &sum.to_be_bytes())?;
            tell(sum, answer)?;
        }
        0x20 => return draw(command.data.try_into().map_err(|_| WRONG_LENGTH)?),
        0x30 => return table(answer, 0),
        0x10 | 0x12 => return Err(WRONG_LENGTH),
        _ => return Err(INS_NOT_SUPPORTED),
    }
    Ok(NO_ERROR)
}

fn resume(why: Resume<'_>, answer: &mut Answer<'_>) -> Result<StatusWord, StatusWord> {
    let mut state = [0; STATE];
    transient_get(0, &mut state)?;
    let number = u16::from_be_bytes(state);
    match why {
        Resume::Piece => table(answer, number),
        Resume::Answer { data, sw: NO_ERROR } => {
            let left = credit()
                .checked_sub(price(number))
                .ok_or(CONDITIONS_NOT_SATISFIED)?;
            put(CREDIT, &left.to_be_bytes())?;
            tell(left, answer)?;
            answer.push(data)?;
            Ok(NO_ERROR)
        }
        Resume::Answer { sw, .. } => Err(sw),
    }
}

os_part!(
    process,
    transient = STATE,
    resume = resume,
    records = 3,
    stack = 256
);
