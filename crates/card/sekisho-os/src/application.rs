//! What the operating system and an application know of each other.
//!
//! An [`Application`] is called by the dispatcher alone. It gets a [`Context`], in which it finds its own records and nothing of anybody
//! else's; it has no reference to another application, nor a way to make one. Only a security domain finds the [`SecurityDomain`](crate::SecurityDomain) services there.

use sekisho_apdu::{Aid, CApdu, StatusWord, Writer};
use sekisho_keys::Rng;
use sekisho_messaging::setup::{Opened, POLICY_LEN, Policy};
use zeroize::Zeroizing;

use crate::authorisation::Order;
use crate::call::{CALLS_MAX, Call, CallCommand, Caller, Next, Resume};
use crate::container::Container;
use crate::interface::{ContainerId, Interface, Place, Protocol};
use crate::loader::Loader;
use crate::loading::Loading;
use crate::messaging::{Credential, Messagings, Revoked};
use crate::names::{EntryId, Owner, RecordKey, RecordKind};
use crate::nvm::{Records, own};
use crate::pairing_record::PairingState;
use crate::profile::Profile;
use crate::refusal::{Outcome, Refusal};
use crate::registry::{Entry, Instance, Module};
use crate::secure::{Authenticated, ModeChange, SecureChannels};
use crate::stack::Depth;
#[cfg(feature = "tls")]
use crate::tls_inside::TlsHeard;

/// Data object of the security domain: what readers may open (`docs/spec/rolling-secure-messaging.md`, 3).
pub const MESSAGING_POLICY: u16 = 0xDF30;

/// An application: a native module, the operating system's replaceable part, or whatever else runs commands. Its value is the memory of one
/// [instance](Instance): there is one for each application of each container, as it is at power-on until it has been used, and no other instance
/// comes near it. It has nothing else: records, keys and who is asking are found in the [`Context`] that comes with each call.
pub trait Application {
    /// The application is being installed, with these parameters (data object C9 of INSTALL): what it puts is written with its registry entry, beside the
    /// records that it is installed with.
    ///
    /// # Errors
    /// Why it cannot be: nothing of it is left then.
    fn install(&mut self, context: &mut Context<'_>, parameters: &[u8]) -> Result<(), Refusal> {
        let _ = (context, parameters);
        Ok(())
    }

    /// The application is to be deleted, with all of its records and this memory.
    ///
    /// # Errors
    /// Why it must not be: nothing has changed then.
    fn delete(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        let _ = context;
        Ok(())
    }

    /// Writes the FCI of the application, which is being selected (GPC 11.9.3.1). What it puts into records is not kept.
    ///
    /// # Errors
    /// The status word of a selection that the application refuses; the search goes no further then.
    fn select(&mut self, context: &mut Context<'_>, out: &mut Writer<'_>) -> Outcome;

    /// The application is selected no longer at a place, or its session there has ended: what it remembers of that is to be forgotten, and wiped.
    fn deselect(&mut self, place: Place) {
        let _ = place;
    }

    /// Processes a command: already put together, its secure messaging removed and verified.
    ///
    /// # Errors
    /// The status word to answer; the command's writes are dropped then.
    fn process(
        &mut self,
        context: &mut Context<'_>,
        capdu: &CApdu<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal>;

    /// Goes on: with the answer of the application that a [forwarded](Next::Forward) command was for, or with the next [piece](Next::More) of a long answer.
    ///
    /// # Errors
    /// As of [`Application::process`]; what the application that was called has written is dropped too.
    fn resume(
        &mut self,
        context: &mut Context<'_>,
        why: Resume<'_>,
        out: &mut Writer<'_>,
    ) -> Result<Next, Refusal> {
        let _ = (context, why, out);
        Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))
    }

    /// The sessions of the TLS Manager; no other application has any.
    #[cfg(feature = "tls")]
    fn tls(&mut self) -> Option<&mut dyn Tls> {
        None
    }
}

/// What the TLS Manager is to the operating system.
#[cfg(feature = "tls")]
pub trait Tls {
    /// Takes a command of the class: OPEN, a piece, CLOSE. Every status word but 9000 and 6400 ends the session.
    fn hear(&mut self, context: &mut Context<'_>, command: &CApdu<'_>, out: &mut Writer<'_>) -> TlsHeard;

    /// The command that came out of the session of a place.
    fn command(&self, place: Place) -> &[u8];

    /// Answers it with an R-APDU.
    fn answer(&mut self, place: Place, response: &[u8], out: &mut Writer<'_>) -> StatusWord;

    /// Whether what the session of a place has answered last is longer than one answer.
    fn has_rest(&self, place: Place) -> bool;

    /// As much of the rest of it as has room.
    fn rest(&mut self, place: Place, out: &mut Writer<'_>);

    /// Ends the session of a place, if there is one, without a word.
    fn end(&mut self, place: Place);
}

/// The applications that a product has code for, with the memory of their instances.
pub trait Applications: Sized {
    /// As they are at power-on: no instance has been used.
    const NEW: Self;

    /// The application of this module in an instance of it, whose memory is [as at power-on](crate::State::NEW) when it is asked for the first time; `None`
    /// when the product has no such module, or memory for no more instances of it.
    fn get(&mut self, module: Module, instance: Instance) -> Option<&mut dyn Application>;

    /// An instance has gone: its memory is as at power-on, and another one's to take.
    fn release(&mut self, module: Module, instance: Instance);

    /// For how many instances of this module it has memory, in all containers: each container has its part of them. More than there can be where the product does not count them.
    fn places(&self, module: Module) -> usize {
        let _ = module;
        usize::MAX
    }

    /// Room for a load file that comes into a container by command; `None` when the product has none for that container.
    fn loading(&mut self, container: ContainerId) -> Option<&mut Loading> {
        let _ = container;
        None
    }
}

/// What of the operating system a command can reach; all but [`SecurityDomain`](crate::SecurityDomain) through [`Context`]'s methods.
pub(crate) struct System<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) container: &'a Container,
    pub(crate) secure: &'a mut SecureChannels,
    pub(crate) messaging: &'a Messagings,
    pub(crate) loader: &'a mut Loader,
    pub(crate) effects: &'a mut Effects,
    pub(crate) pairing: &'a PairingState,
    /// How many containers have been made: they have the numbers from 1 on.
    pub(crate) containers: u8,
    pub(crate) free_ram: usize,
}

/// Revocations of one command: the selected application's, and one for each that it calls.
const REVOKED_MAX: usize = 1 + CALLS_MAX;

impl Effects {
    /// What `revoked` has opened ends. More at once than there is room for end all that is open, rather than nothing.
    pub(crate) fn revoke(&mut self, revoked: Revoked) {
        if self.revoked.contains(&Some(revoked)) {
            return;
        }
        match self.revoked.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(revoked),
            None => self.revoked = [Some(Revoked::All(revoked.container())); REVOKED_MAX],
        }
    }

    /// What an application that was called has brought about: it can revoke, and nothing else of this.
    pub(crate) fn join(&mut self, called: &Self) {
        for revoked in called.revoked.iter().flatten() {
            self.revoke(*revoked);
        }
    }
}

/// What happens after the command's commit, if it succeeds.
#[derive(Default)]
pub(crate) struct Effects {
    /// The writes may use what is kept in reserve for them.
    pub(crate) essential: bool,
    /// What is ordered of the content; it is done before the command is answered.
    pub(crate) order: Option<Order>,
    /// The registry or the card's life cycle has changed: read it again.
    pub(crate) reload: bool,
    /// The secure channel changes its mode once the answer has been protected.
    pub(crate) mode: Option<ModeChange>,
    /// Secure messaging begins once the answer is out.
    pub(crate) opened: Option<(Credential, Opened)>,
    /// Secure messaging that this has opened ends, on whichever logical channel, once the answer is out.
    pub(crate) revoked: [Option<Revoked>; REVOKED_MAX],
    /// The pairing data from here on.
    pub(crate) pairing: Option<PairingState>,
    /// What the device is to be told when the reader has gone.
    #[cfg(feature = "os-part")]
    pub(crate) announced: Option<crate::announcement::Announcement>,
    /// Goes into the keys of secure messaging, from the next command on.
    pub(crate) refresh: Option<Zeroizing<[u8; 32]>>,
}

/// How a command was protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// Not at all, or in broadcast mode.
    None,
    /// By the open secure channel of its logical channel.
    SecureChannel,
    /// By the secure messaging of its logical channel.
    Messaging,
}

/// What a command finds beside its own bytes.
pub struct Context<'a> {
    pub(crate) place: Place,
    pub(crate) protocol: Protocol,
    pub(crate) caller: Caller,
    /// Its registry entry.
    pub(crate) entry: &'a Entry,
    /// How the command was protected.
    pub(crate) protection: Protection,
    /// Number of the application session.
    pub(crate) session: u32,
    pub(crate) records: Records<'a>,
    pub(crate) rng: &'a mut dyn Rng,
    /// Room for a command to another application, for one that may call others.
    pub(crate) call: Option<&'a mut CallCommand>,
    /// Whether the answer may come in pieces.
    pub(crate) pieces: bool,
    /// Who is at the other end of the TLS session that the command came out of.
    #[cfg(feature = "tls")]
    pub(crate) peer: Option<crate::tls_inside::Peer>,
    pub(crate) system: System<'a>,
}

impl<'a> Context<'a> {
    /// Who calls the application.
    pub const fn caller(&self) -> Caller {
        self.caller
    }

    /// Sends a command to another application of the container, by its AID; the application gives back what this gives, and is
    /// [resumed](Application::resume) with the answer. The other one finds the caller in its context and no proof of anything else; both have
    /// the same [place](Self::place) and session, in which nobody else has come to the other one.
    ///
    /// # Errors
    /// 6985 for an application that has been called itself, or after [`CALLS_MAX`](crate::CALLS_MAX) calls, or when the other one is locked, or is
    /// this one; 6A88 when there is none; 6A84 for a command longer than [`CALL_COMMAND_MAX`](crate::CALL_COMMAND_MAX).
    pub fn forward(&mut self, to: &[u8], command: &CApdu<'_>) -> Result<Next, Refusal> {
        let room = self.call.as_deref_mut();
        let room = room.ok_or(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED))?;
        room.set(command)?;
        self.forward_prepared(to)
    }

    /// [`Context::forward`] to the application with this identity, if it is still there.
    ///
    /// # Errors
    /// As of [`Context::forward`].
    pub fn forward_to(&mut self, to: EntryId, command: &CApdu<'_>) -> Result<Next, Refusal> {
        let found = self.system.container.registry.entry(to);
        let aid = found.ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?.1.aid;
        self.forward(aid.as_bytes(), command)
    }

    /// [`Context::forward`] of the command that stands in the room for it.
    pub(crate) fn forward_prepared(&self, to: &[u8]) -> Result<Next, Refusal> {
        let refused = Refusal(StatusWord::CONDITIONS_NOT_SATISFIED);
        let found = self.system.container.registry.application(to);
        let found = found.filter(|(index, _)| self.system.container.registry.shows(*index, self.place));
        let (_, entry) = found.ok_or(Refusal(StatusWord::REFERENCED_DATA_NOT_FOUND))?;
        let to = entry.id;
        if to == self.entry.id || self.system.container.usable(to, self.place).is_none() {
            return Err(refused);
        }
        Ok(Next::Forward(Call { to }))
    }

    /// Whether the answer may come in [pieces](Next::More): to a command that came in the clear, from an interface on which it can wait.
    pub const fn may_answer_in_pieces(&self) -> bool {
        self.pieces
    }

    /// The interface on which the command came.
    pub const fn interface(&self) -> Interface {
        self.place.interface
    }

    /// What that interface speaks.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The interface and the logical channel on which the command came.
    pub const fn place(&self) -> Place {
        self.place
    }

    /// The container of the application.
    pub const fn container(&self) -> ContainerId {
        self.system.container.id
    }

    /// The application itself, as an instance in its container.
    pub const fn instance(&self) -> Instance {
        Instance {
            container: self.system.container.id,
            entry: self.entry.id,
        }
    }

    /// The application's AID.
    pub const fn aid(&self) -> Aid {
        self.entry.aid
    }

    /// SE-id.
    pub const fn se_id(&self) -> [u8; 10] {
        self.system.container.card.se_id
    }

    /// The source of random numbers.
    pub fn rng(&mut self) -> &mut dyn Rng {
        self.rng
    }

    /// The proof that the command came through an open secure channel, with the channel's level.
    pub fn authenticated(&self) -> Option<Authenticated<'_>> {
        if self.protection == Protection::SecureChannel {
            self.system.secure.authenticated(self.place)
        } else {
            None
        }
    }

    /// The place of the TLS session that the command came out of.
    #[cfg(feature = "tls")]
    pub fn tls_place(&self) -> Option<Place> {
        self.place.outside()
    }

    /// Who has sent the command through a TLS session of the SE, which the TLS Manager has proved; whoever is called by another application finds nobody.
    #[cfg(feature = "tls")]
    pub const fn peer(&self) -> Option<crate::tls_inside::Peer> {
        self.peer
    }

    /// Whether another application is the caller, and that is the issuer security domain of the container: it forwards what its provider sends to who is personalised.
    pub fn is_root_calling(&self) -> bool {
        matches!(self.caller, Caller::Application { entry } if self.system.container.root() == Some(entry))
    }

    /// Whether the container's root [is calling](Self::is_root_calling), and what it forwards came encrypted: its secure channel has C-DECRYPTION.
    #[cfg(feature = "tls")]
    pub fn is_root_calling_encrypted(&self) -> bool {
        let channel = self.system.secure.authenticated(self.place);
        self.is_root_calling() && channel.is_some_and(|channel| channel.level().c_decryption())
    }

    /// Number of the application session. It changes with each selection, each reset, and when secure messaging ends: what an application
    /// remembers of a session it forgets when the number is another.
    pub const fn session(&self) -> u32 {
        self.session
    }

    /// Whether the command came under secure messaging, which the application opened in this session.
    pub fn is_messaging(&self) -> bool {
        self.protection == Protection::Messaging
    }

    /// What the security domain lets readers open (data object DF30): the ratchet alone, unless it says otherwise.
    ///
    /// # Errors
    /// 6581 when the flash fails.
    pub fn messaging_policy(&mut self) -> Result<Policy, Refusal> {
        let mut bytes = [0; POLICY_LEN];
        let Some(root) = self.system.container.root() else {
            return Ok(Policy::default());
        };
        let policy = RecordKey::new(Owner::Entry(root), RecordKind::DataObject, MESSAGING_POLICY);
        let found = self.records.get(policy, &mut bytes)?;
        Ok(found
            .and_then(|len| Policy::from_bytes(bytes.get(..len)?))
            .unwrap_or_default())
    }

    const fn credential(&self, number: u16) -> Credential {
        Credential {
            application: self.instance(),
            number,
        }
    }

    /// Whether there is secure messaging on a logical channel.
    pub fn has_messaging(&self, place: Place) -> bool {
        self.system.messaging.is_open(place)
    }

    /// Whether secure messaging can be opened on the logical channel of the command.
    ///
    /// # Errors
    /// 6985 when the logical channel has a secure channel or secure messaging, inside a TLS session, or when another application is the caller; 6A84 when too many have secure
    /// messaging.
    pub fn can_open_messaging(&mut self) -> Result<(), Refusal> {
        let at_interface = matches!(self.caller, Caller::Interface(_));
        if !at_interface
            || self.place.is_inside()
            || self.protection != Protection::None
            || self.system.secure.is_known(self.place)
        {
            return Err(Refusal(StatusWord::CONDITIONS_NOT_SATISFIED));
        }
        if !self.system.messaging.has_room(self.place.interface) {
            return Err(Refusal(StatusWord::NOT_ENOUGH_MEMORY));
        }
        Ok(())
    }

    /// Says that this command takes little of the stack, whatever its outcome: [`Profile::shallow`] is wiped behind it. Without a word all is wiped that any command
    /// may take. No public key, no key that is written, no OS part: `tests/stack_left.rs` of the delivered applications measures what they say.
    pub fn shallow(&mut self) {
        if self.records.staged.depth == Depth::Unknown {
            self.records.staged.depth = Depth::Shallow;
        }
    }

    /// Opens secure messaging on the logical channel of the command, once its answer is out. `key` is the application's number for the key that
    /// opens it: [`Context::revoke_messaging`] with the same number ends it.
    ///
    /// # Errors
    /// As of [`Context::can_open_messaging`].
    pub fn open_messaging(&mut self, key: u16, opened: Opened) -> Result<(), Refusal> {
        self.can_open_messaging()?;
        self.system.effects.opened = Some((self.credential(key), opened));
        Ok(())
    }

    /// Ends what a key of the application has opened, on every logical channel of every interface, when the command has succeeded and its answer
    /// is out: the key has another value, or is gone.
    pub fn revoke_messaging(&mut self, key: u16) {
        let credential = self.credential(key);
        self.system.effects.revoke(Revoked::One(credential));
    }

    /// Mixes a fresh secret into the keys of all commands after this one, which came under secure messaging.
    pub fn refresh_messaging(&mut self, secret: Zeroizing<[u8; 32]>) {
        self.system.effects.refresh = Some(secret);
    }

    /// Whether the command has put or removed records that are not written yet: what is read of them is not so if it fails.
    pub fn has_put(&self) -> bool {
        !self.records.staged.is_empty()
    }

    /// Writes now what the application has put since it was called or [resumed](Application::resume), whatever becomes of the command: for a counter of tries, which must have counted before
    /// anything is compared.
    ///
    /// # Errors
    /// 6581 when the flash fails, 6A84 when it is full.
    pub fn commit_now(&mut self) -> Result<(), Refusal> {
        self.records.staged.commit_since(&mut self.records.nvm)
    }

    /// Random bytes.
    pub fn random(&mut self, out: &mut [u8]) {
        self.rng.fill(out);
    }

    /// Reads one of the application's own records into `out`: its length, or `None` when there is none. It is a part of one of the application's objects; one without others has part 0.
    ///
    /// # Errors
    /// 6581 when the flash fails, 6A84 when `out` is too small.
    pub fn get(&mut self, object: u16, part: u8, out: &mut [u8]) -> Result<Option<usize>, Refusal> {
        self.records.get_own(self.entry.id, object, part, out)
    }

    /// Writes one of the application's own records, when the command succeeds.
    ///
    /// # Errors
    /// 6A84 when the command writes more than one command may.
    pub fn put(&mut self, object: u16, part: u8, value: &[u8]) -> Result<(), Refusal> {
        self.records.put_own(self.entry.id, object, part, value)
    }

    /// Removes one of the application's own records, when the command succeeds.
    ///
    /// # Errors
    /// As [`Context::put`].
    pub fn remove(&mut self, object: u16, part: u8) -> Result<(), Refusal> {
        self.records.remove_own(self.entry.id, object, part)
    }

    /// Removes all parts of one of the application's objects, however many, when the command succeeds; what the command puts behind this stays.
    ///
    /// # Errors
    /// As [`Context::put`].
    pub fn remove_all(&mut self, object: u16) -> Result<(), Refusal> {
        self.records.staged.stage_all(own(self.entry.id, object, 0))
    }
}
