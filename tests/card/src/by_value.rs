//! An SE that has started, as a value to be handed on: tests have the stack for it.

use std::fmt;

use sekisho_os::{BootError, Personalisation, Platform, Profile, SecureElement};

/// An SE that did not start, with the flash that it was to start from.
pub struct BootFailure<F> {
    pub error: BootError,
    pub flash: F,
}

impl<F> fmt::Debug for BootFailure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootFailure")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

pub trait ByValue<P: Platform>: Sized {
    fn booted(flash: P::Flash, rng: P::Rng, profile: &Profile) -> Result<Self, BootFailure<P::Flash>>;

    fn made(
        flash: P::Flash,
        rng: P::Rng,
        profile: &Profile,
        personalisation: &Personalisation<'_>,
    ) -> Result<Self, BootFailure<P::Flash>> {
        Self::made_all(flash, rng, profile, &[personalisation])
    }

    fn made_all(
        flash: P::Flash,
        rng: P::Rng,
        profile: &Profile,
        personalisations: &[&Personalisation<'_>],
    ) -> Result<Self, BootFailure<P::Flash>>;
}

fn with_flash<P: Platform>(
    started: Result<(), BootError>,
    se: SecureElement<P>,
) -> Result<SecureElement<P>, BootFailure<P::Flash>> {
    match started {
        Ok(()) => Ok(se),
        Err(error) => Err(BootFailure {
            error,
            flash: se.into_flash(),
        }),
    }
}

impl<P: Platform> ByValue<P> for SecureElement<P> {
    fn booted(flash: P::Flash, rng: P::Rng, profile: &Profile) -> Result<Self, BootFailure<P::Flash>> {
        let mut se = Self::new(flash, rng);
        with_flash(se.boot(profile), se)
    }

    fn made_all(
        flash: P::Flash,
        rng: P::Rng,
        profile: &Profile,
        personalisations: &[&Personalisation<'_>],
    ) -> Result<Self, BootFailure<P::Flash>> {
        let mut se = Self::new(flash, rng);
        with_flash(se.manufacture(profile, personalisations), se)
    }
}
