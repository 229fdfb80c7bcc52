//! What is seen of a session, named.

use core::fmt;

use sekisho_bridge::{Extent, content_type, handshake_name, ins};

use super::Seen;

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Command(command) => {
                f.write_str("SE     > ")?;
                write_command(f, command)
            }
            Self::Answer(answer) => {
                f.write_str("SE     < ")?;
                match answer.split_last_chunk::<2>() {
                    Some(([], [a, b])) => write!(f, "{a:02X}{b:02X}"),
                    Some((data, [a, b])) => write!(f, "{} bytes, {a:02X}{b:02X}", data.len()),
                    None => f.write_str("no answer"),
                }
            }
            Self::Sent(header) => {
                f.write_str("server < ")?;
                write_record(f, header)
            }
            Self::Received(header) => {
                f.write_str("server > ")?;
                write_record(f, header)
            }
        }
    }
}

/// A command of the TLS class, or GET RESPONSE.
fn write_command(f: &mut fmt::Formatter<'_>, command: &[u8]) -> fmt::Result {
    let [cla, ins, p1, p2, rest @ ..] = command else {
        return f.write_str("no command");
    };
    let len = Extent::from_p1p2([*p1, *p2]).len();
    match *ins {
        0xC0 => return f.write_str("GET RESPONSE"),
        ins::OPEN => {
            let time = if rest.len() > 1 { ", with the time" } else { "" };
            return write!(f, "OPEN, peer {}{time}", u16::from_be_bytes([*p1, *p2]));
        }
        ins::CLOSE => return write!(f, "CLOSE, {}", why(*p1)),
        ins::APPLICATION_DATA => f.write_str("application_data")?,
        ins::HANDSHAKE => f.write_str("handshake, a part of it or encrypted")?,
        ins::CHANGE_CIPHER_SPEC => f.write_str("change_cipher_spec")?,
        ins::ALERT => f.write_str("alert")?,
        message => f.write_str(handshake_name(message))?,
    }
    let part = match rest.first() {
        Some(sent) if usize::from(*sent) < len && rest.len() > 1 => format!("{sent} of {len}"),
        _ => len.to_string(),
    };
    write!(f, ", {part} bytes")?;
    if cla & 0x10 != 0 {
        f.write_str(", goes on")?;
    }
    Ok(())
}

const fn why(p1: u8) -> &'static str {
    match p1 {
        0 => "asked for",
        1 => "the connection is gone",
        2 => "that was no record",
        _ => "that record is too long",
    }
}

/// A record by its header, and of a message in the clear that the SE said, the message.
fn write_record(f: &mut fmt::Formatter<'_>, header: &[u8]) -> fmt::Result {
    let [kind, _, _, a, b, message @ ..] = header else {
        return f.write_str("no record");
    };
    let name = match *kind {
        content_type::CHANGE_CIPHER_SPEC => "change_cipher_spec",
        content_type::ALERT => "alert",
        content_type::HANDSHAKE => "handshake",
        content_type::APPLICATION_DATA => "application_data",
        _ => "unknown type",
    };
    write!(f, "record of {name}, {} bytes", u16::from_be_bytes([*a, *b]))?;
    match message.first() {
        Some(message) => write!(f, ": {}", handshake_name(*message)),
        None => Ok(()),
    }
}

/// The name of an alert (RFC 8446, 6).
pub const fn alert_name(alert: u8) -> &'static str {
    match alert {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        112 => "unrecognized_name",
        116 => "certificate_required",
        _ => "an alert without a name",
    }
}
