//! Lines into the secure element: a protocol with an endpoint that carries whole APDUs in vpcd's frames, or what is spoken on a wire with one that carries its own frames.

use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;

use sekisho_os::{Interface, Protocol};
use sekisho_transport::{CardLine, LinkAddress};

/// Protocols by name, as `docs/spec/routing.md` has them, 1.
const NAMES: [(&str, Protocol); 7] = [
    ("t0", Protocol::T0),
    ("t1", Protocol::T1),
    ("swp-a", Protocol::SwpA),
    ("swp-b", Protocol::SwpB),
    ("apdu-gate", Protocol::ApduGate),
    ("spi-ese", Protocol::SpiEse),
    ("spi-euicc", Protocol::SpiEuicc),
];

/// The name of a protocol.
pub(crate) fn name(protocol: Protocol) -> &'static str {
    let found = NAMES.iter().find(|(_, of)| *of == protocol);
    found.map_or("proprietary", |(name, _)| name)
}

/// The interface that speaks a protocol.
pub(crate) fn interface(protocol: Protocol) -> Interface {
    let found = Interface::ALL.into_iter().find(|i| protocol.is_of(*i));
    found.unwrap_or(Interface::Iso7816Contact)
}

/// Where a line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A reader that listens, as pcscd's virtual one does: the SE connects.
    Client(String),
    /// The SE listens.
    Listener(SocketAddr),
    /// The SE listens, and speaks the protocol's own frames by link records.
    Link(CardLine, LinkAddress),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(address) => write!(f, "vpcd:{address}"),
            Self::Listener(address) => write!(f, "vpcd+tcp:{address}"),
            Self::Link(_, address) => address.fmt(f),
        }
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// What it carries, one after the other: the sides of a wire.
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) endpoint: Endpoint,
}

/// The protocols that a wire carries, in the order of its sides.
fn carried(line: CardLine) -> Vec<Protocol> {
    match line {
        CardLine::T0 => vec![Protocol::T0],
        CardLine::T1 => vec![Protocol::T1],
        CardLine::Spi | CardLine::I2c => vec![Protocol::SpiEse, Protocol::SpiEuicc],
        CardLine::Swp => vec![Protocol::ApduGate, Protocol::SwpA, Protocol::SwpB],
    }
}

impl Line {
    /// A line of one protocol in vpcd's frames.
    pub(crate) fn whole(protocol: Protocol, endpoint: Endpoint) -> Self {
        Self {
            protocols: vec![protocol],
            endpoint,
        }
    }

    /// Its name: the protocol, or the wire.
    pub(crate) fn name(&self) -> &'static str {
        match &self.endpoint {
            Endpoint::Link(line, _) => {
                let found = CardLine::ALL.iter().find(|(_, of)| of == line);
                found.map_or("", |(name, _)| name)
            }
            _ => self.protocols.first().map_or("", |protocol| name(*protocol)),
        }
    }

    fn link(what: &str, address: &str) -> Result<Self, String> {
        let Some((_, line)) = CardLine::ALL.iter().find(|(name, _)| *name == what) else {
            let names: Vec<_> = CardLine::ALL.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "'{what}' has no frames of its own; wires are {}, and {address} carries one of them",
                names.join(", ")
            ));
        };
        let address = LinkAddress::of_line(address, what, line.is_characters())?;
        Ok(Self {
            protocols: carried(*line),
            endpoint: Endpoint::Link(*line, address),
        })
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((what, endpoint)) = text.split_once('=') else {
            return Err("write PROTOCOL=ENDPOINT, as t0=vpcd:127.0.0.1:35963".to_owned());
        };
        if ["tcp:", "unix:", "pty:"]
            .iter()
            .any(|scheme| endpoint.starts_with(scheme))
        {
            return Self::link(what, endpoint);
        }
        let Some((_, protocol)) = NAMES.iter().find(|(name, _)| *name == what) else {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(format!("'{what}' is no protocol; there are {}", names.join(", ")));
        };
        let endpoint = if let Some(address) = endpoint.strip_prefix("vpcd:") {
            Endpoint::Client(host_and_port(address).map_err(|why| format!("'{endpoint}': {why}"))?)
        } else if let Some(address) = endpoint.strip_prefix("vpcd+tcp:") {
            let address = address.parse();
            Endpoint::Listener(
                address.map_err(|_| format!("'{endpoint}': write ADDRESS:PORT, as 127.0.0.1:0"))?,
            )
        } else {
            return Err(format!(
                "'{endpoint}' is no endpoint: write tcp:HOST:PORT or unix:PATH to listen for the protocol's own frames, pty:PATH for the characters of t0 or t1 on a pseudo terminal; for whole APDUs vpcd:HOST:PORT to connect to a reader, or vpcd+tcp:ADDRESS:PORT to listen for one"
            ));
        };
        Ok(Self::whole(*protocol, endpoint))
    }
}

/// A reader's address: what follows the last colon is a port.
pub(crate) fn host_and_port(text: &str) -> Result<String, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0) => {
            Ok(text.to_owned())
        }
        _ => Err("write HOST:PORT"),
    }
}

/// What is wrong with lines taken together, if anything.
pub(crate) fn conflict(lines: &[Line]) -> Option<String> {
    for (at, line) in lines.iter().enumerate() {
        if let Endpoint::Listener(address) = &line.endpoint
            && !address.ip().is_loopback()
        {
            return Some(format!(
                "{address} is open to others, and whoever connects holds the card; listen on 127.0.0.1:{} and forward it if you must",
                address.port()
            ));
        }
        let before = lines.get(..at).unwrap_or_default();
        let taken = |protocol: &&Protocol| before.iter().any(|other| other.protocols.contains(protocol));
        if let Some(protocol) = line.protocols.iter().find(taken) {
            return Some(format!(
                "{} has two readers, who would take each other's selections and proofs; give each a protocol of its own",
                name(*protocol)
            ));
        }
        let place = line.endpoint.to_string();
        let is_one_place = |other: &&Line| other.endpoint.to_string() == place;
        if let Some(other) = before.iter().find(is_one_place)
            && !place.ends_with(":0")
        {
            return Some(format!(
                "{} and {} cannot both be {place}; a reader has one card",
                other.name(),
                line.name()
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_has_its_name_and_every_wrong_line_its_reason() {
        assert_eq!(NAMES.map(|(_, protocol)| protocol), Protocol::STANDARD);
        for (text, protocol) in NAMES {
            let line: Line = format!("{text}=vpcd:[::1]:35963").parse().unwrap();
            assert_eq!((&line.protocols[..], line.name()), (&[protocol][..], text));
            assert_eq!(name(protocol), text);
            assert_eq!(line.endpoint.to_string(), "vpcd:[::1]:35963");
            assert!(protocol.is_of(interface(protocol)));
        }
        for (text, why) in [
            ("", "PROTOCOL=ENDPOINT"),
            ("t0", "PROTOCOL=ENDPOINT"),
            ("t2=vpcd:a:1", "there are t0, t1, swp-a"),
            ("T0=vpcd:a:1", "no protocol"),
            ("t0=", "no endpoint"),
            ("t0=127.0.0.1:1", "no endpoint"),
            ("t0=tcp:127.0.0.1", "HOST:PORT"),
            ("t1=unix:", "unix:PATH"),
            ("t1=pty:", "pty:PATH"),
            ("spi=pty:tty", "t0 and t1 have"),
            ("swp=pty:tty", "t0 and t1 have"),
            ("spi-ese=tcp:127.0.0.1:1", "wires are t0, t1, spi, i2c, swp"),
            ("spi=vpcd:a:1", "no protocol"),
            ("t0=vpcd:", "HOST:PORT"),
            ("t0=vpcd:a", "HOST:PORT"),
            ("t0=vpcd::1", "HOST:PORT"),
            ("t0=vpcd:a:0", "HOST:PORT"),
            ("t0=vpcd:a:65536", "HOST:PORT"),
            ("t0=vpcd+tcp:localhost:1", "ADDRESS:PORT"),
            ("t0=vpcd+tcp:127.0.0.1", "ADDRESS:PORT"),
        ] {
            let said = text.parse::<Line>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        for (text, line) in CardLine::ALL {
            let parsed: Line = format!("{text}=unix:a/b").parse().unwrap();
            assert_eq!((parsed.name(), parsed.protocols.len()), (text, line.sides()));
            assert_eq!(parsed.endpoint.to_string(), "unix:a/b");
        }
    }

    #[test]
    fn lines_get_in_no_others_way() {
        let said = |lines: &[&str]| {
            let lines: Vec<Line> = lines.iter().map(|line| line.parse().unwrap()).collect();
            conflict(&lines).unwrap_or_default()
        };
        assert_eq!(
            said(&[
                "t0=vpcd:a:1",
                "t1=vpcd:a:2",
                "spi-ese=vpcd+tcp:127.0.0.1:0",
                "apdu-gate=vpcd+tcp:127.0.0.1:0"
            ]),
            ""
        );
        assert!(said(&["t0=vpcd:a:1", "t0=vpcd:a:2"]).contains("t0 has two readers"));
        assert!(said(&["t0=vpcd:a:1", "swp-a=vpcd:a:1"]).contains("t0 and swp-a cannot both be vpcd:a:1"));
        assert_eq!(
            said(&["t0=tcp:a:0", "t1=tcp:a:0", "spi=unix:a", "swp=unix:b"]),
            ""
        );
        assert!(said(&["t0=tcp:a:1", "t0=vpcd:a:2"]).contains("t0 has two readers"));
        assert!(said(&["spi=unix:a", "i2c=unix:b"]).contains("spi-ese has two readers"));
        assert!(said(&["spi-euicc=vpcd:a:1", "spi=unix:b"]).contains("spi-euicc has two readers"));
        assert!(said(&["swp=unix:a", "swp-a=vpcd:b:1"]).contains("swp-a has two readers"));
        assert!(said(&["t0=unix:a", "swp=unix:a"]).contains("t0 and swp cannot both be unix:a"));
        assert!(said(&["t0=vpcd+tcp:0.0.0.0:1"]).contains("open to others"));
        assert!(said(&["t0=vpcd+tcp:[::]:1"]).contains("open to others"));
    }
}
