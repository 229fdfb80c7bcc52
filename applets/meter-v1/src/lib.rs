//! Meter, version 1: one register that counts what was consumed.
//!
//! | INS | command | data | answer |
//! |---|---|---|---|
//! | 10 | GET VERSION | - | version(4) |
//! | 20 | READ REGISTER | - | register(4) |
//! | 22 | ADD | amount(2) | register(4) |
//!
//! Record 0 is register(4). This version has a defect that version 2 mends: it adds in 16 bits, so that the register silently starts again
//! from zero after 65,535.
#![no_std]

use os_part_sdk::{
    Answer, Command, INS_NOT_SUPPORTED, NO_ERROR, StatusWord, WRONG_LENGTH, get, os_part, put, version,
};

const REGISTER: u32 = 0;

fn process(command: &Command<'_>, answer: &mut Answer<'_>) -> Result<StatusWord, StatusWord> {
    let register = get(REGISTER).map_or(0, u32::from_be_bytes);
    let number = match command.ins {
        0x10 => version(),
        0x20 => register,
        0x22 => {
            let amount = command
                .data
                .try_into()
                .map(u16::from_be_bytes)
                .map_err(|_| WRONG_LENGTH)?;
            let sum = u32::from((register as u16).wrapping_add(amount));
            put(REGISTER, &sum.to_be_bytes())?;
            sum
        }
        _ => return Err(INS_NOT_SUPPORTED),
    };
    answer.push_u32(number)?;
    Ok(NO_ERROR)
}

os_part!(process);
