//! Commands in words.

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
