//! The interfaces of the SE, the protocols that they speak, and the containers that answer there.

/// Logical channels of one interface that the class byte can name (GPC 11.1.4).
pub(crate) const CHANNELS_MAX: u8 = 20;
/// Of these the first, which can each have a TLS session.
#[cfg(feature = "tls")]
pub(crate) const INSIDE_MAX: u8 = 4;
#[cfg(not(feature = "tls"))]
pub(crate) const INSIDE_MAX: u8 = 0;

/// The way on which a command came (seed 2: the operating system knows it for each message). It owns logical channels, selections, security status and
/// what waits; it speaks one [`Protocol`] at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Interface {
    /// ISO/IEC 7816-3 contacts, T=0 or T=1. None is 0, so that no interface, in an `Option`, is.
    Iso7816Contact = 1,
    /// ETSI TS 102 613 single wire protocol: a contactless reader behind the NFC controller.
    Swp,
    /// ETSI TS 102 622 APDU gate: the device itself, through the NFC controller.
    ApduGate,
    /// GlobalPlatform APDU transport over SPI or I2C.
    Spi,
}

impl Interface {
    /// Number of interfaces.
    pub const COUNT: usize = 4;

    /// All interfaces, in the order of [`Interface::index`].
    pub const ALL: [Self; Self::COUNT] = [Self::Iso7816Contact, Self::Swp, Self::ApduGate, Self::Spi];

    /// Position in a table with one row for each interface.
    pub const fn index(self) -> usize {
        match self {
            Self::Iso7816Contact => 0,
            Self::Swp => 1,
            Self::ApduGate => 2,
            Self::Spi => 3,
        }
    }

    /// Whether strangers reach it: who sends there has not been let in by the device.
    pub const fn is_contactless(self) -> bool {
        matches!(self, Self::Swp)
    }

    /// The protocol that it speaks until it is [reset to another](crate::SecureElement::reset_to).
    pub const fn default_protocol(self) -> Protocol {
        match self {
            Self::Iso7816Contact => Protocol::T0,
            Self::Swp => Protocol::SwpA,
            Self::ApduGate => Protocol::ApduGate,
            Self::Spi => Protocol::SpiEse,
        }
    }
}

/// What an interface speaks. Another protocol on the same interface comes with its reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// ISO/IEC 7816-3 T=0.
    T0,
    /// ISO/IEC 7816-3 T=1.
    T1,
    /// ISO/IEC 14443 type A over the single wire protocol.
    SwpA,
    /// ISO/IEC 14443 type B over the single wire protocol.
    SwpB,
    /// ETSI TS 102 622 APDU gate.
    ApduGate,
    /// GlobalPlatform APDU transport over SPI or I2C, whose node address means the embedded secure element.
    SpiEse,
    /// The same, where it means the eUICC.
    SpiEuicc,
    /// One of the product's own, on whichever interface: numbers 0 to 7F.
    Proprietary(u8),
}

impl Protocol {
    /// All but proprietary ones, in the order of their [codes](Protocol::code).
    pub const STANDARD: [Self; 7] = [
        Self::T0,
        Self::T1,
        Self::SwpA,
        Self::SwpB,
        Self::ApduGate,
        Self::SpiEse,
        Self::SpiEuicc,
    ];

    /// Its code in pairing data (`docs/spec/routing.md`, 1); `None` for a proprietary number above 7F, which no row can have.
    pub const fn code(self) -> Option<u8> {
        match self {
            Self::T0 => Some(0),
            Self::T1 => Some(1),
            Self::SwpA => Some(2),
            Self::SwpB => Some(3),
            Self::ApduGate => Some(4),
            Self::SpiEse => Some(5),
            Self::SpiEuicc => Some(6),
            Self::Proprietary(number @ 0..=0x7F) => Some(0x80 | number),
            Self::Proprietary(_) => None,
        }
    }

    /// What the data of an answer do when the command has data and no Le (`docs/spec/card.md`, 1).
    pub const fn case4_without_le(self) -> WithoutLe {
        match self {
            Self::T0 => WithoutLe::Waits,
            Self::T1 | Self::SwpA | Self::SwpB | Self::ApduGate => WithoutLe::GoesOut,
            Self::SpiEse | Self::SpiEuicc | Self::Proprietary(_) => WithoutLe::GoesOut,
        }
    }

    /// Whether an interface can speak it.
    pub const fn is_of(self, interface: Interface) -> bool {
        match self {
            Self::T0 | Self::T1 => matches!(interface, Interface::Iso7816Contact),
            Self::SwpA | Self::SwpB => matches!(interface, Interface::Swp),
            Self::ApduGate => matches!(interface, Interface::ApduGate),
            Self::SpiEse | Self::SpiEuicc => matches!(interface, Interface::Spi),
            Self::Proprietary(_) => true,
        }
    }
}

/// What becomes of an answer's data when its command has data and no Le.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutLe {
    /// They wait for GET RESPONSE: 61XX (ISO/IEC 7816-3, 12.2.5: a TPDU of T=0 goes one way).
    Waits,
    /// They go out, as with Le 00.
    GoesOut,
}

/// Names a container. It is the owner of the container's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContainerId(pub(crate) u8);

impl ContainerId {
    /// The embedded secure element: a GlobalPlatform card with its issuer security domain.
    pub const ESE: Self = Self(1);

    /// The container with this number, 1 to 7F.
    pub const fn new(number: u8) -> Option<Self> {
        match number {
            1..=0x7F => Some(Self(number)),
            _ => None,
        }
    }

    /// The container's number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A logical channel of an interface: where a command came in, and where its selection and its secure channel live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The interface.
    pub interface: Interface,
    /// The logical channel, 0 to 19; from 20 on it is inside the TLS session of channel 0 and so on.
    pub logical_channel: u8,
}

impl Place {
    /// Another logical channel of the same interface.
    #[must_use]
    pub const fn on(self, logical_channel: u8) -> Self {
        Self {
            logical_channel,
            ..self
        }
    }

    /// Whether this is inside a TLS session: no class byte names it.
    pub(crate) const fn is_inside(self) -> bool {
        self.logical_channel >= CHANNELS_MAX
    }

    /// Whether there can be a TLS session here.
    #[cfg(feature = "tls")]
    pub(crate) const fn has_inside(self) -> bool {
        self.logical_channel < INSIDE_MAX
    }

    /// The place inside the TLS session of this one.
    #[cfg(feature = "tls")]
    pub(crate) const fn inside(self) -> Self {
        self.on(self.logical_channel + CHANNELS_MAX)
    }

    /// The place whose TLS session this is inside.
    #[cfg(feature = "tls")]
    pub(crate) fn outside(self) -> Option<Self> {
        Some(self.on(self.logical_channel.checked_sub(CHANNELS_MAX)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_has_its_own_row() {
        for (i, interface) in Interface::ALL.into_iter().enumerate() {
            assert_eq!(interface.index(), i);
        }
    }

    #[test]
    fn every_protocol_is_of_one_interface_and_a_proprietary_one_of_all() {
        let of = |protocol: Protocol| Interface::ALL.into_iter().filter(move |i| protocol.is_of(*i));
        for protocol in [
            Protocol::T0,
            Protocol::T1,
            Protocol::SwpA,
            Protocol::SwpB,
            Protocol::ApduGate,
            Protocol::SpiEse,
            Protocol::SpiEuicc,
        ] {
            assert_eq!(of(protocol).count(), 1, "{protocol:?}");
        }
        assert_eq!(of(Protocol::Proprietary(7)).count(), Interface::COUNT);
        for interface in Interface::ALL {
            assert!(interface.default_protocol().is_of(interface));
        }
    }
}
