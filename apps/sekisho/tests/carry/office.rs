//! A server without HTTP: the HSM's own authorisations, each counter for one of them, and the judgement of what the SE says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::rc::Rc;

use sekisho_apdu::Writer;
use sekisho_device::{Backend, BackendError, Part, Permission};
use sekisho_hsm::{AuthoriseRequest, KVN_SCP, SoftHsm, authorise, broadcast_package, is_of};
use sekisho_keys::sha256;
use sekisho_link::{
    Access, Campaign, Delivery, DeliveryParts, Equ, Manifest, Offer, Package, Proof, Refusal, SeId, Status,
    Verdict, Version, Wants,
};

/// What it offers at the moment.
struct Offered {
    offer: Offer,
    package: Vec<u8>,
    delivery: Vec<u8>,
}

pub(crate) struct Office {
    hsm: Rc<SoftHsm>,
    offered: Option<Offered>,
    campaigns: u64,
    /// What was asked for with each counter.
    issued: BTreeMap<u32, Vec<u8>>,
    /// What was granted: wants and pauses.
    pub(crate) granted: Vec<(Wants, u8)>,
    /// Every status.
    pub(crate) reports: Vec<Status>,
    /// Refusals that the SE has proved.
    pub(crate) refusals: Vec<Refusal>,
}

/// The server as an agent has it, and a test looks into it.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Rc<RefCell<Office>>);

impl Shared {
    pub(crate) fn new(hsm: &Rc<SoftHsm>) -> Self {
        Self(Rc::new(RefCell::new(Office {
            hsm: Rc::clone(hsm),
            offered: None,
            campaigns: 0,
            issued: BTreeMap::new(),
            granted: Vec::new(),
            reports: Vec::new(),
            refusals: Vec::new(),
        })))
    }

    /// Offers a package in a campaign of its own, in the place of what was offered before.
    pub(crate) fn offer(&self, package: &[u8]) {
        let mut office = self.0.borrow_mut();
        office.campaigns += 1;
        let campaign = Campaign(0xC0FF_EE00 + office.campaigns);
        let source = Package::decode(package).unwrap().source;
        let p_se = broadcast_package(&*office.hsm, campaign, &source).unwrap();
        let parts = DeliveryParts {
            campaign,
            p_se: &p_se,
            p_mob: &[],
        };
        let mut delivery = vec![0; Delivery::OVERHEAD + p_se.len()];
        let mut out = Writer::new(&mut delivery);
        parts.encode_without_digest(&mut out).unwrap();
        let digest = sha256(&[out.written()]);
        out.bytes(&digest).unwrap();
        let offer = Offer {
            version: Version::Two,
            campaign,
            target: source.manifest.target,
            bytes: u32::try_from(delivery.len()).unwrap(),
            sha256: sha256(&[&delivery]),
        };
        office.offered = Some(Offered {
            offer,
            package: package.to_vec(),
            delivery,
        });
    }
}

impl Office {
    fn prove(&mut self, status: &Status, manifest: &Manifest) -> Access {
        let Some(proof) = status.proof else {
            return Access::Retry;
        };
        assert!(
            is_of(&*self.hsm, status.se_id, KVN_SCP, &proof).unwrap(),
            "an agent sends nothing as its SE's that is not"
        );
        match proof {
            Proof::Receipt(receipt) => {
                assert_eq!(
                    (receipt.target, receipt.version, receipt.digest),
                    (manifest.target, manifest.version, manifest.digest)
                );
                self.offered = None;
                Access::Allowed
            }
            Proof::Refusal(refusal) => {
                assert_eq!(refusal.campaign, status.campaign);
                assert!(
                    self.issued.contains_key(&refusal.sequence_counter),
                    "{refusal:?} is of no session that was authorised"
                );
                self.refusals.push(refusal);
                Access::Retry
            }
        }
    }
}

impl Backend for Shared {
    fn offer(&mut self, _: SeId) -> Result<Option<Offer>, BackendError> {
        Ok(self.0.borrow().offered.as_ref().map(|offered| offered.offer))
    }

    fn delivery(&mut self, _: Campaign, from: u32, _: Option<&str>) -> Result<Part, BackendError> {
        assert_eq!(from, 0);
        let delivery = self.0.borrow().offered.as_ref().unwrap().delivery.clone();
        Ok(Part {
            offset: 0,
            etag: None,
            body: Box::new(Cursor::new(delivery)),
        })
    }

    fn permission(&mut self, _: SeId, bytes: &[u8]) -> Result<Permission, BackendError> {
        let mut office = self.0.borrow_mut();
        let office = &mut *office;
        let equ = Equ::decode(bytes).unwrap();
        let sequence_counter = equ.sequence_counter + 1;
        // The same counter for the same again: whatever else was asked for with it is another authorisation.
        let asked = [&equ.campaign.0.to_be_bytes()[..], &[equ.wants.0, equ.pauses]].concat();
        if *office
            .issued
            .entry(sequence_counter)
            .or_insert_with(|| asked.clone())
            != asked
        {
            return Ok(Permission::CounterUsed);
        }
        let package = &office.offered.as_ref().unwrap().package;
        let package = Package::decode(package).unwrap();
        let request = AuthoriseRequest {
            version: equ.version,
            se_id: equ.se_id,
            kvn: equ.kvn,
            scp_parameter: equ.scp_parameter,
            campaign: equ.campaign,
            sequence_counter,
            wants: equ.wants,
            pauses: equ.pauses,
            key_set_apart: false,
            package: &package.source,
        };
        office.granted.push((equ.wants, equ.pauses));
        Ok(Permission::Granted(authorise(&*office.hsm, &request).unwrap()))
    }

    fn status(&mut self, _: SeId, st: &[u8]) -> Result<Verdict, BackendError> {
        let status = Status::decode(st).unwrap();
        let mut office = self.0.borrow_mut();
        office.reports.push(status);
        let manifest = office
            .offered
            .as_ref()
            .map(|offered| Package::decode(&offered.package).unwrap().source.manifest);
        let access = match manifest {
            Some(manifest) => office.prove(&status, &manifest),
            None => Access::Allowed,
        };
        Ok(Verdict {
            access,
            retry_after: u32::from(access == Access::Retry),
        })
    }
}
