//! A secure element without cryptography and a server in memory: enough to see what the agent does with them.
#![allow(dead_code, unreachable_pub)] // each test program uses a part
#![allow(clippy::unwrap_used, clippy::panic)] // test support

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

use sekisho_apdu::{StatusWord, Writer};
use sekisho_device::{Backend, BackendError, Part, Permission};
use sekisho_keys::sha256;
use sekisho_link::{
    Access, AuthorisationHead, AuthorisationWriter, Campaign, Custody, DeliveryParts, Equ, LoaderState,
    Manifest, Offer, PSeWriter, Receipt, Refusal, SeId, Staging, Status, Verdict, Version, Wants, codes,
};
use sekisho_transport::{Card, TransportError};

pub const SE_ID: SeId = SeId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
pub const CAMPAIGN: Campaign = Campaign(0xC0);
pub const BLOCKS: u16 = 20;
pub const P_MOB: &[u8] = b"for the device itself";

/// A secure element that follows the protocol's order and checks nothing else. What is in it survives a reset, as NVM does.
pub struct Se {
    pub counter: u32,
    pub state: LoaderState,
    /// The design system's keys; an SE of 0.1 says nothing of them.
    pub keys: Option<LoaderState>,
    /// Which part the bulk is of.
    pub target: u8,
    pub receipt: Option<Receipt>,
    pub refusal: Option<Refusal>,
    /// Blocks that were expected when broadcast mode was left.
    pub left_at: Vec<u16>,
    /// In which secure channel it is: none, an individual one, broadcast.
    channel: Channel,
    /// Commands until the power fails, if it shall; the failing one is executed or not.
    pub fails_in: Option<(u32, bool)>,
    /// Activations so far.
    pub activations: u32,
    /// Blocks written so far, repetitions included.
    pub writes: u32,
    /// Whether it answers at all.
    pub is_there: bool,
    /// Refuses AUTHORIZE ACTION with this.
    pub refuses: Option<u16>,
}

#[derive(PartialEq, Clone, Copy)]
enum Channel {
    None,
    Individual,
    Broadcast,
}

impl Se {
    pub fn new() -> Self {
        let state = LoaderState {
            target: 1,
            slot: 0,
            version: 1,
            abi: Manifest::ABI,
            staging: Staging::Nothing,
            campaign: Campaign(0),
            next_block: 0,
        };
        Self {
            counter: 7,
            state,
            keys: Some(LoaderState {
                target: 2,
                abi: 0,
                ..state
            }),
            target: 1,
            receipt: None,
            refusal: None,
            left_at: Vec::new(),
            channel: Channel::None,
            fails_in: None,
            activations: 0,
            writes: 0,
            is_there: true,
            refuses: None,
        }
    }

    fn get_data(&self, p1: u8, p2: u8) -> Vec<u8> {
        let tlv = |tag: &[u8], value: &[u8]| {
            [tag, &[u8::try_from(value.len()).unwrap()], value, &[0x90, 0]].concat()
        };
        match (p1, p2) {
            (0x00, 0xCF) => tlv(&[0xCF], &SE_ID.0),
            (0x00, 0xC1) => tlv(&[0xC1], &self.counter.to_be_bytes()[1..]),
            // In two templates, as of an SE with many keys.
            (0x00, 0xE0) => tlv(&[0xE0], &[0xC0, 4, 1, 0x01, 0x88, 16]),
            (0x01, 0xE0) => tlv(&[0xE0], &[0xC0, 4, 1, 0x30, 0x88, 16]),
            (0x00, 0x66) => tlv(
                &[0x66],
                &[
                    0x73, 13, 0x64, 11, 6, 9, 0x2A, 0x86, 0x48, 0x86, 0xFC, 0x6B, 4, 3, 0x70,
                ],
            ),
            (0xDF, 0x20 | 0x22) => {
                let state = if p2 == 0x20 { Some(self.state) } else { self.keys };
                let mut value = [0; LoaderState::LEN];
                let Some(state) = state else {
                    return vec![0x6A, 0x88];
                };
                state.encode(&mut Writer::new(&mut value)).unwrap();
                tlv(&[0xDF, p2], &value)
            }
            (0xDF, 0x23) => self
                .refusal
                .map_or(vec![0x6A, 0x88], |r| tlv(&[0xDF, 0x23], &r.encode())),
            (0xDF, 0x21) => self
                .receipt
                .map_or(vec![0x6A, 0x88], |r| tlv(&[0xDF, 0x21], &r.encode())),
            _ => vec![0x6A, 0x88],
        }
    }

    fn process(&mut self, capdu: &[u8]) -> Vec<u8> {
        let sw = |sw: u16| sw.to_be_bytes().to_vec();
        match (capdu[1], self.channel) {
            (0xA4, _) => {
                self.channel = Channel::None;
                sw(0x9000)
            }
            (0xCA, _) => self.get_data(capdu[2], capdu[3]),
            (0x50, _) => {
                self.counter += 1;
                // The authorisation carries the counter for which it was made.
                let is_for = u32::from_be_bytes(capdu[5..9].try_into().unwrap());
                self.channel = if is_for == self.counter {
                    Channel::Individual
                } else {
                    Channel::None
                };
                sw(0x9000)
            }
            (0x82, Channel::None) => sw(0x6300),
            (0x82, _) => sw(0x9000),
            (0x3A, Channel::Individual) if capdu[2] == 1 => {
                self.channel = Channel::Broadcast;
                let staged = self.staged();
                if staged.campaign != CAMPAIGN {
                    (staged.staging, staged.campaign, staged.next_block) = (Staging::Begun, CAMPAIGN, 0);
                }
                sw(0x9000)
            }
            (0x3C, Channel::Broadcast) if capdu[2..4] == self.staged().next_block.to_be_bytes() => {
                self.writes += 1;
                let staged = self.staged();
                staged.next_block += 1;
                if staged.next_block == BLOCKS {
                    staged.staging = Staging::Complete;
                }
                sw(0x9000)
            }
            // It leaves at any block.
            (0x3A, Channel::Broadcast) if capdu[2..4] == [0, 1] => {
                self.channel = Channel::Individual;
                let at = self.staged().next_block;
                self.left_at.push(at);
                sw(0x9000)
            }
            (0x3A, Channel::Broadcast) if self.staged().staging == Staging::Complete => {
                self.channel = Channel::Individual;
                sw(0x9000)
            }
            (0x3E, Channel::Individual) if self.refuses.is_some() => {
                let refused = self.refuses.unwrap();
                self.refusal = Some(refusal(self.counter, refused));
                sw(refused)
            }
            (0x3E, Channel::Individual) if self.staged().staging == Staging::Complete => {
                self.activate();
                sw(0x9000)
            }
            _ => {
                self.channel = Channel::None;
                sw(0x6985)
            }
        }
    }

    /// What it holds of the part that the bulk is of.
    fn staged(&mut self) -> &mut LoaderState {
        if self.target == 1 {
            &mut self.state
        } else {
            self.keys.as_mut().unwrap()
        }
    }

    fn activate(&mut self) {
        self.activations += 1;
        let previous_version = self.staged().version;
        self.receipt = Some(Receipt {
            action: codes::ACTION_ACTIVATE,
            target: self.target,
            campaign: CAMPAIGN,
            previous_version,
            version: previous_version + 1,
            digest: [0; 32],
            mac: [0; 16],
        });
        let state = self.staged();
        state.version += 1;
        (state.staging, state.campaign, state.next_block) = (Staging::Nothing, Campaign(0), 0);
    }
}

/// The SE's refusal to activate.
pub fn refusal(sequence_counter: u32, sw: u16) -> Refusal {
    Refusal {
        action: codes::ACTION_ACTIVATE,
        target: 1,
        campaign: CAMPAIGN,
        sequence_counter,
        sw: StatusWord(sw),
        block: BLOCKS,
        version: 1,
        digest: [0; 32],
        mac: [0; 16],
    }
}

/// The SE in a reader.
#[derive(Clone)]
pub struct Reader(pub Rc<RefCell<Se>>);

impl Reader {
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(Se::new())))
    }
}

impl Card for Reader {
    fn transmit(&mut self, capdu: &[u8]) -> Result<Vec<u8>, TransportError> {
        let mut se = self.0.borrow_mut();
        if !se.is_there {
            return Err(TransportError::Closed);
        }
        match se.fails_in {
            Some((0, is_executed)) => {
                if is_executed {
                    se.process(capdu);
                }
                se.fails_in = None;
                se.channel = Channel::None;
                Err(TransportError::Closed)
            }
            fails_in => {
                se.fails_in = fails_in.map(|(n, is_executed)| (n - 1, is_executed));
                Ok(se.process(capdu))
            }
        }
    }

    fn reset(&mut self) -> Result<Vec<u8>, TransportError> {
        let mut se = self.0.borrow_mut();
        se.channel = Channel::None;
        if se.is_there {
            Ok(vec![0x3B, 0])
        } else {
            Err(TransportError::Closed)
        }
    }
}

/// The server, with a list of what it was asked.
pub struct Server {
    pub delivery: Vec<u8>,
    pub offer: Option<Offer>,
    /// Which part it offers.
    pub target: u8,
    pub etag: &'static str,
    /// Breaks each download off after so many bytes.
    pub breaks_after: Option<usize>,
    /// Bytes sent so far.
    pub sent: usize,
    /// Permissions to give instead of the right one, last first.
    pub permissions: Vec<Permission>,
    /// Requests that fail, counted from now.
    pub fails_in: Option<u32>,
    pub verdict: Verdict,
    pub reports: Vec<Status>,
    pub equs: Vec<Equ<'static>>,
    /// Answers a range with this offset instead of the right one.
    pub wrong_offset: Option<u32>,
    /// Sends so many bytes too many.
    pub surplus: usize,
}

pub fn delivery(campaign: Campaign) -> Vec<u8> {
    let mut p_se = vec![0; 64 * 1024];
    let mut writer = PSeWriter::new(&mut p_se, Custody::Hsm).unwrap();
    for block in 0..BLOCKS {
        let [p1, p2] = block.to_be_bytes();
        writer
            .command(&[&[0x84, 0x3C, p1, p2, 0xF0][..], &[0; 0xF0]].concat())
            .unwrap();
    }
    writer
        .command(&[0x84, 0x3A, 0, 0, 8, 1, 1, 1, 1, 1, 1, 1, 1])
        .unwrap();
    let len = writer.finish().unwrap();
    p_se.truncate(len);
    let mut bytes = vec![0; 128 * 1024];
    let mut out = Writer::new(&mut bytes);
    DeliveryParts {
        campaign,
        p_se: &p_se,
        p_mob: P_MOB,
    }
    .encode_without_digest(&mut out)
    .unwrap();
    let len = out.len();
    bytes.truncate(len);
    let digest = sha256(&[&bytes]);
    bytes.extend_from_slice(&digest);
    bytes
}

impl Server {
    pub fn new() -> Self {
        let delivery = delivery(CAMPAIGN);
        let mut server = Self {
            delivery,
            offer: None,
            target: 1,
            etag: "\"one\"",
            breaks_after: None,
            sent: 0,
            permissions: Vec::new(),
            fails_in: None,
            verdict: Verdict {
                access: Access::Allowed,
                retry_after: 0,
            },
            reports: Vec::new(),
            equs: Vec::new(),
            wrong_offset: None,
            surplus: 0,
        };
        server.offer_it();
        server
    }

    pub fn offer_it(&mut self) {
        self.offer = Some(Offer {
            version: Version::Two,
            target: self.target,
            campaign: CAMPAIGN,
            bytes: u32::try_from(self.delivery.len()).unwrap(),
            sha256: sha256(&[&self.delivery]),
        });
    }

    fn request(&mut self) -> Result<(), BackendError> {
        match self.fails_in {
            Some(0) => {
                self.fails_in = None;
                Err(BackendError::Unreachable("the network is down".to_owned()))
            }
            other => {
                self.fails_in = other.map(|n| n - 1);
                Ok(())
            }
        }
    }
}

/// What P_AUT says before its commands.
pub fn head(se_id: SeId, campaign: Campaign, sequence_counter: u32) -> AuthorisationHead<'static> {
    AuthorisationHead {
        version: Version::Two,
        se_id,
        campaign,
        sequence_counter,
        target: 1,
        wants: Wants::BOTH,
        splices: &[3],
    }
}

/// An authorisation for the SE above: its INITIALIZE UPDATE names the counter for which it is made.
pub fn authorisation(head: &AuthorisationHead<'_>) -> Vec<u8> {
    let mut bytes = vec![0; 1000];
    let mut writer = AuthorisationWriter::new(&mut bytes, head).unwrap();
    let mut challenge = [0; 8];
    challenge[..4].copy_from_slice(&head.sequence_counter.to_be_bytes());
    let mut add = |header: [u8; 4], data: &[u8]| {
        let lc = u8::try_from(data.len()).unwrap();
        writer.command(&[&header[..], &[lc], data].concat()).unwrap();
    };
    add([0x80, 0x50, 0x30, 0], &challenge);
    add([0x84, 0x82, 0x33, 0], &[0; 16]);
    let leave = [0x84, 0x3A, 0, 1];
    for piece in 0..head.splices.len() {
        if piece > 0 {
            add(leave, &[0; 8]);
        }
        add([0x84, 0x3A, 1, 4], &[0; 16]);
    }
    if head.wants.activates() {
        add([0x84, 0x3E, 1, 0], &[0; 16]);
    } else {
        add(leave, &[0; 8]);
    }
    let len = writer.finish().unwrap();
    bytes.truncate(len);
    bytes
}

/// After which commands of such an authorisation those of the bulk follow.
pub fn splices(wants: Wants, pauses: u8) -> Vec<u8> {
    if wants.loads() {
        (0..=pauses).map(|piece| 3 + 2 * piece).collect()
    } else {
        Vec::new()
    }
}

/// A server that a test can look into while the agent uses it.
#[derive(Clone)]
pub struct Shared(pub Rc<RefCell<Server>>);

impl Shared {
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(Server::new())))
    }
}

impl Backend for Shared {
    fn offer(&mut self, se_id: SeId) -> Result<Option<Offer>, BackendError> {
        assert_eq!(se_id, SE_ID);
        let mut server = self.0.borrow_mut();
        server.request()?;
        Ok(server.offer)
    }

    fn delivery(&mut self, campaign: Campaign, from: u32, etag: Option<&str>) -> Result<Part, BackendError> {
        assert_eq!(campaign, CAMPAIGN);
        let mut server = self.0.borrow_mut();
        server.request()?;
        let offset = if etag == Some(server.etag) { from } else { 0 };
        let mut bytes = server.delivery[usize::try_from(offset).unwrap()..].to_vec();
        bytes.extend(std::iter::repeat_n(0, server.surplus));
        let breaks_after = server.breaks_after.unwrap_or(usize::MAX).min(bytes.len());
        server.sent += breaks_after;
        let body = Broken {
            fails: breaks_after < bytes.len(),
            bytes: bytes[..breaks_after].to_vec(),
            at: 0,
        };
        Ok(Part {
            offset: server.wrong_offset.unwrap_or(offset),
            etag: Some(server.etag.to_owned()),
            body: Box::new(body),
        })
    }

    fn permission(&mut self, _: SeId, equ: &[u8]) -> Result<Permission, BackendError> {
        let mut server = self.0.borrow_mut();
        server.request()?;
        let equ = Equ::decode(equ).unwrap();
        assert!(equ.proof.is_empty());
        server.equs.push(Equ { proof: &[], ..equ });
        if let Some(permission) = server.permissions.pop() {
            return Ok(permission);
        }
        let head = AuthorisationHead {
            target: server.target,
            wants: equ.wants,
            splices: &splices(equ.wants, equ.pauses),
            ..head(equ.se_id, equ.campaign, equ.sequence_counter + 1)
        };
        Ok(Permission::Granted(authorisation(&head)))
    }

    fn status(&mut self, _: SeId, st: &[u8]) -> Result<Verdict, BackendError> {
        let mut server = self.0.borrow_mut();
        server.request()?;
        server.reports.push(Status::decode(st).unwrap());
        Ok(server.verdict)
    }
}

/// A download that may break off.
struct Broken {
    bytes: Vec<u8>,
    at: usize,
    fails: bool,
}

impl Read for Broken {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() && self.fails {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        let n = rest.len().min(out.len()).min(1000);
        out[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(n)
    }
}
