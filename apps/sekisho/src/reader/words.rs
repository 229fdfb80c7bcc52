//! Commands and status words in words.

/// The name of a command (ISO/IEC 7816-4, Table 4), with what it names.
pub(crate) fn command(capdu: &[u8]) -> String {
    let [cla, ins, p1, p2, rest @ ..] = capdu else {
        return "not a command".to_owned();
    };
    let name = match (cla & 0x80, ins) {
        (0, 0x20) => "VERIFY",
        (0, 0x24) => "CHANGE REFERENCE DATA",
        (0, 0x2C) => "RESET RETRY COUNTER",
        (0, 0x82) => "EXTERNAL AUTHENTICATE",
        (0, 0x84) => "GET CHALLENGE",
        (0, 0x88) => "INTERNAL AUTHENTICATE",
        (0, 0xA4) if *p1 == 4 => "SELECT",
        (0, 0xA4) => "SELECT FILE",
        (0, 0xB0) => "READ BINARY",
        (0, 0xB2) => "READ RECORD",
        (0, 0xC0) => "GET RESPONSE",
        (0, 0xD0) => "WRITE BINARY",
        (0, 0xD2) => "WRITE RECORD",
        (0, 0xD6) => "UPDATE BINARY",
        (0, 0xDC) => "UPDATE RECORD",
        (0, 0xE0) => "CREATE FILE",
        (0, 0xE2) => "APPEND RECORD",
        (0, 0xE4) => "DELETE FILE",
        (0x80, 0x5A) => "SESSION KEY DECRYPTION",
        (0x80, 0x5C) => "REFRESH KEYS",
        _ => return format!("INS {ins:02X}"),
    };
    match (name, rest) {
        ("SELECT FILE", [2, high, low, ..]) => format!("{name} {high:02X}{low:02X}"),
        ("READ BINARY" | "WRITE BINARY" | "UPDATE BINARY", _) if p1 & 0x80 != 0 => {
            format!("{name} of file {} from {p2}", p1 & 0x1F)
        }
        ("READ BINARY" | "WRITE BINARY" | "UPDATE BINARY", _) => {
            format!("{name} from {}", u16::from(*p1) << 8 | u16::from(*p2))
        }
        _ => name.to_owned(),
    }
}

/// What a status word says (ISO/IEC 7816-4, Tables 5 and 6).
pub(crate) fn status(sw: u16) -> String {
    let words = match sw {
        0x9000 => "done",
        0x6282 => "done; the file ends before",
        0x6581 => "the card's memory has failed",
        0x6700 => "wrong length",
        0x6882 => "secure messaging is not supported here",
        0x6981 => "the file has another structure",
        0x6982 => "not allowed: something must be proved first",
        0x6983 => "blocked after too many wrong tries",
        0x6985 => "not now: the conditions are not met",
        0x6986 => "no file is selected",
        0x6987 => "secure messaging was expected",
        0x6988 => "secure messaging is wrong: its MAC or an object of its",
        0x6A80 => "the data is wrong",
        0x6A81 => "not supported",
        0x6A82 => "there is no such file or application",
        0x6A83 => "there is no such record",
        0x6A84 => "there is no room",
        0x6A86 => "wrong P1 or P2",
        0x6A88 => "there is no such key",
        0x6A89 => "there is such a file already",
        0x6B00 => "the offset is behind the end",
        0x6D00 => "there is no such command",
        0x6E00 => "there is no such class",
        0x6F00 => "the card cannot say why",
        _ if sw & 0xFFF0 == 0x63C0 => return format!("wrong; {} tries left", sw & 0x000F),
        _ => "another status word",
    };
    words.to_owned()
}
