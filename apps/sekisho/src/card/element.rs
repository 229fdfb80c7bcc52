//! The secure element on a flash of the host.

use core::marker::PhantomData;

use sekisho_applets::{DOMAINS, Standard, WithTls};
use sekisho_keys::Rng;
use sekisho_nvm::{Flash, Ram};
use sekisho_os::{
    AllInterfaces, BootError, Containers, Interface, InterfacesWithTls, Personalisation, Platform, Profile,
    SecureElement,
};
use sekisho_transport::{Card, InProcessCard, Request};

/// The host's platform: its flash, its randomness, all native applications.
pub(crate) struct HostPlatform<F>(PhantomData<F>);

impl<F: Flash> Platform for HostPlatform<F> {
    type Flash = F;
    type Rng = SystemRng;
    type Applications = Standard<1, 0, DOMAINS>;
    type Interfaces = AllInterfaces;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

/// The same with a TLS Manager, which its sessions alone take much for.
pub(crate) struct FleetPlatform<F>(PhantomData<F>);

impl<F: Flash> Platform for FleetPlatform<F> {
    type Flash = F;
    type Rng = SystemRng;
    type Applications = WithTls<Standard<1, 0, DOMAINS>>;
    type Interfaces = InterfacesWithTls<AllInterfaces>;
    type Containers = Containers<1>;
    type Index = Ram<128, 16, 16>;
}

/// The same with room for two containers.
pub(crate) struct CardPlatform<F>(PhantomData<F>);

impl<F: Flash> Platform for CardPlatform<F> {
    type Flash = F;
    type Rng = SystemRng;
    type Applications = WithTls<Standard<CONTAINERS_MAX, LOADED, { CONTAINERS_MAX * DOMAINS }>>;
    type Interfaces = InterfacesWithTls<AllInterfaces>;
    type Containers = Containers<CONTAINERS_MAX>;
    type Index = Ram<256, 16, 32>;
}

/// Containers that a card has room for.
pub(crate) const CONTAINERS_MAX: usize = 2;

/// Applications of load files that a card has memory for, in all its containers: four in each of two.
const LOADED: usize = 8;

/// A virtual secure element with up to [`CONTAINERS_MAX`] containers.
pub(crate) type CardSe<F> = SecureElement<CardPlatform<F>>;

/// A virtual secure element of a fleet.
pub(crate) type FleetSe<F> = SecureElement<FleetPlatform<F>>;

/// A virtual secure element with one container.
pub(crate) type VirtualSe<F> = SecureElement<HostPlatform<F>>;

/// The operating system's random number generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemRng;

impl Rng for SystemRng {
    fn fill(&mut self, out: &mut [u8]) {
        if getrandom::fill(out).is_err() {
            // Better no answer than one with a predictable challenge or key.
            std::process::abort();
        }
    }
}

/// What starting found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The SE had been made before.
    Found,
    /// The flash was blank; the SE has been made.
    Made,
}

/// Starts the SE on `flash`; on a blank one makes it first, as `personalisation` says.
pub(crate) fn start<F: Flash>(
    flash: F,
    profile: &Profile,
    personalisation: &Personalisation<'_>,
) -> Result<(VirtualSe<F>, Start), BootError> {
    start_as(flash, profile, &[personalisation])
}

/// The same on any platform, with a container for each personalisation.
pub(crate) fn start_as<P: Platform<Rng = SystemRng>>(
    flash: P::Flash,
    profile: &Profile,
    personalisations: &[&Personalisation<'_>],
) -> Result<(SecureElement<P>, Start), BootError> {
    let mut se = SecureElement::new(flash, SystemRng);
    let start = match se.boot(profile) {
        Ok(()) => Start::Found,
        Err(BootError::Blank) => {
            se.manufacture(profile, personalisations)?;
            Start::Made
        }
        Err(error) => return Err(error),
    };
    Ok((se, start))
}

/// The longest R-APDU.
const RAPDU_MAX: usize = 65_538;

/// An SE in this process as a device has it, on this interface.
pub(crate) fn in_process<P: Platform>(mut se: Box<SecureElement<P>>, interface: Interface) -> impl Card {
    let mut out = vec![0; RAPDU_MAX];
    InProcessCard::new(move |request: Request<'_>| {
        Ok(match request {
            Request::Reset => {
                se.reset(interface);
                se.atr().to_vec()
            }
            Request::Command(capdu) => {
                let len = se.transmit(interface, capdu, &mut out);
                out.get(..len).unwrap_or_default().to_vec()
            }
        })
    })
}
