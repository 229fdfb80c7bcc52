//! Meter, version 2: adds in 32 bits, refuses what would overflow, and tells the largest amount it has seen.
//!
//! | INS | command | data | answer |
//! |---|---|---|---|
//! | 10 | GET VERSION | - | version(4) |
//! | 20 | READ REGISTER | - | register(4) |
//! | 22 | ADD | amount(2) | register(4); 6A80 for zero or when the register is full |
//! | 24 | READ PEAK | - | largest amount added since this version is there(4) |
//!
//! Record 0 is register(4), as version 1 left it; record 1 is peak(2).
#![no_std]

use os_part_sdk::{
    Answer, Command, INCORRECT_DATA, INS_NOT_SUPPORTED, NO_ERROR, StatusWord, WRONG_LENGTH, get, os_part,
    put, version,
};

const REGISTER: u32 = 0;
const PEAK: u32 = 1;

fn process(command: &Command<'_>, answer: &mut Answer<'_>) -> Result<StatusWord, StatusWord> {
    let register = get(REGISTER).map_or(0, u32::from_be_bytes);
    let peak = get(PEAK).map_or(0, u16::from_be_bytes);
    let number = match command.ins {
        0x10 => version(),
        0x20 => register,
        0x22 => {
            let amount = command
                .data
                .try_into()
                .map(u16::from_be_bytes)
                .map_err(|_| WRONG_LENGTH)?;
            let sum = register
                .checked_add(u32::from(amount))
                .filter(|_| amount > 0)
                .ok_or(INCORRECT_DATA)?;
            put(REGISTER, &sum.to_be_bytes())?;
            put(PEAK, &peak.max(amount).to_be_bytes())?;
            sum
        }
        0x24 => u32::from(peak),
        _ => return Err(INS_NOT_SUPPORTED),
    };
    answer.push_u32(number)?;
    Ok(NO_ERROR)
}

os_part!(process);
