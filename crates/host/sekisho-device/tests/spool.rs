//! The agent's spool on disk, whose process may die at any call.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use sekisho_device::{Agent, AgentError, DiskSpool, HandOver, Spool, hand_over};
use sekisho_link::{Campaign, Outcome};

use crate::agent::{LIMIT, ended};
use crate::support::{CAMPAIGN, P_MOB, Reader, Shared};

/// A spool whose process dies at the n-th call.
struct Dying(DiskSpool, Rc<RefCell<u32>>);

macro_rules! dying {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        fn $name(&mut self, $($argument: $type),*) -> io::Result<$result> {
            let mut left = self.1.borrow_mut();
            if *left == 0 {
                return Err(io::Error::other("killed"));
            }
            *left -= 1;
            self.0.$name($($argument),*)
        }
    )*};
}

impl Spool for Dying {
    dying! {
        turn_to(campaign: Campaign) -> ();
        delivery() -> Option<Vec<u8>>;
        partial() -> (u64, Option<String>);
        restart(etag: Option<&str>) -> ();
        append(bytes: &[u8]) -> ();
        complete() -> ();
        is_handed_over() -> bool;
        set_handed_over() -> ();
        clear() -> ();
        report() -> Option<Vec<u8>>;
        set_report(status: Option<&[u8]>) -> ();
    }
}

fn scratch(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("sekisho-device-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

#[test]
fn the_agent_may_die_at_any_touch_of_its_spool() {
    let root = scratch("dying");
    for left in 0.. {
        let (server, reader) = (Shared::new(), Reader::new());
        let spool = root.join(left.to_string());
        let mob = root.join(format!("mob-{left}"));
        let its_mob = mob.clone();
        let start = |left: u32| {
            let mob = its_mob.clone();
            let take: HandOver = Box::new(move |campaign, p_mob| hand_over(&mob, campaign, p_mob).map(drop));
            let left = Rc::new(RefCell::new(left));
            let spool = Dying(DiskSpool::open(&spool, LIMIT).unwrap(), left);
            Agent::new(server.clone(), spool, LIMIT, Some(take))
        };
        let first = start(left).turn(&mut reader.clone(), &mut |_| ());
        let is_last = first.is_ok();
        if let Err(error) = first {
            assert!(matches!(error, AgentError::Spool(_)), "{error}");
            ended(start(u32::MAX).turn(&mut reader.clone(), &mut |_| ()).unwrap());
        }
        assert_eq!(
            server.0.borrow().reports.last().unwrap().outcome,
            Outcome::Activated
        );
        assert_eq!(reader.0.borrow().activations, 1, "died at {left}");
        assert_eq!(
            std::fs::read(mob.join(format!("{CAMPAIGN}.pmob"))).unwrap(),
            P_MOB
        );
        if is_last {
            assert!(left > 15, "only {left} touches");
            break;
        }
    }
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_spool_on_disk_has_one_user_and_keeps_one_campaign() {
    let root = scratch("one");
    let mut spool = DiskSpool::open(&root, 10).unwrap();
    assert!(
        DiskSpool::open(&root, 10)
            .unwrap_err()
            .to_string()
            .contains("another agent")
    );
    assert!(spool.delivery().is_err(), "no campaign was turned to");
    spool.turn_to(Campaign(1)).unwrap();
    spool.restart(Some("\"tag\"")).unwrap();
    spool.append(b"12345").unwrap();
    spool.append(b"6").unwrap();
    drop(spool);
    let mut spool = DiskSpool::open(&root, 10).unwrap();
    spool.turn_to(Campaign(1)).unwrap();
    assert_eq!(spool.partial().unwrap(), (6, Some("\"tag\"".to_owned())));
    spool.complete().unwrap();
    assert_eq!(spool.delivery().unwrap().unwrap(), b"123456");
    std::fs::write(root.join("notes.txt"), "not ours").unwrap();
    spool.turn_to(Campaign(2)).unwrap();
    assert_eq!(spool.delivery().unwrap(), None);
    assert!(!root.join(Campaign(1).to_string()).exists());
    assert!(root.join("notes.txt").exists());
    // What grew beyond the limit behind our back is not read.
    spool.restart(Some("t")).unwrap();
    spool.append(&[0; 11]).unwrap();
    spool.complete().unwrap();
    assert_eq!(spool.delivery().unwrap(), None);
    std::fs::remove_dir_all(root).unwrap();
}
