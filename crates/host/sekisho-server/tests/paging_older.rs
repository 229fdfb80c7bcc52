//! A paging server that comes back from an older copy of its database: devices are done with orders that it gives out again.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_link::SeId;
use sekisho_paging::datagram::Reason;
use sekisho_paging::device::{Device, State};
use sekisho_paging::message::Action;
use sekisho_paging::orders::GLOBAL;
use sekisho_paging::recovery::Request;
use sekisho_server::paging::{Paging, PagingConfig, Scheme};
use sekisho_store::paging::Target;

async fn start(folder: &Path, hsm: &Arc<dyn Hsm>) -> Arc<Paging> {
    start_as(folder, hsm, Scheme::Ticket).await
}

async fn start_as(folder: &Path, hsm: &Arc<dyn Hsm>, scheme: Scheme) -> Arc<Paging> {
    let config = PagingConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        threads: 1,
        scheme,
        database: format!("sqlite:{}", folder.join("paging.sqlite").display()),
        directory: Some(folder.join("paging")),
        domain: 0,
        node: "node".to_owned(),
    };
    Arc::new(Paging::start(config, Arc::clone(hsm)).await.unwrap())
}

/// A poll and its answer; whatever the device is told to do, it does. Gives the order that it acted on.
fn poll(device: &mut Device, paging: &Paging) -> Option<u32> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let nonce = device.state().uid.0[..4].try_into().unwrap();
    socket
        .send_to(
            &device.poll(Reason::Periodic, nonce),
            paging.engine().local_addr(),
        )
        .unwrap();
    let mut answer = [0; 44];
    socket.recv(&mut answer).expect("no answer");
    let before = device.state().order;
    let accepted = device.receive(&answer).unwrap();
    device.promote(accepted);
    if let Some(pending) = device.state().pending {
        let settled = device.settled(pending.order).unwrap();
        device.settle(settled);
    }
    Some(device.state().order).filter(|order| *order > before)
}

async fn send(paging: &Paging, seconds: u32) -> u32 {
    let action = Action::PollEvery(seconds);
    paging.post(Target::Everybody, action, None, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_server_is_heard_by_all_its_fleet_and_by_nobody_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let hsm: Arc<dyn Hsm> = Arc::new(SoftHsm::generate().unwrap());
    let paging = start(folder.path(), &hsm).await;
    let ids: Vec<_> = (0..4).map(|n| SeId([0x5E, 0, 0, 0, 0, 0, 0, 0, 0, n])).collect();
    paging.register(&ids, 1, false).await.unwrap();
    let states = paging.provision_all(&ids, 60).await.unwrap();
    let mut devices: Vec<_> = states.into_iter().map(|(state, _)| Device::new(state)).collect();
    let [one, two, late, liar] = devices.as_mut_slice() else {
        panic!("four devices");
    };
    paging.stop().await;
    std::fs::copy(path("paging.sqlite"), path("copy")).unwrap();

    let paging = start(folder.path(), &hsm).await;
    for seconds in 101..104 {
        send(&paging, seconds).await;
        poll(one, &paging);
        poll(two, &paging);
    }
    assert_eq!((one.state().order, two.state().order), (3, 3));
    paging.stop().await;
    std::fs::copy(path("copy"), path("paging.sqlite")).unwrap();
    std::fs::remove_dir_all(path("paging")).unwrap();

    // It gives order 1 again before any device has polled.
    let paging = start(folder.path(), &hsm).await;
    assert_eq!(send(&paging, 201).await, 1);
    assert_eq!(poll(one, &paging), None);
    paging.look(0).await.unwrap();
    let orders = paging.orders().await.unwrap();
    let jumps = orders.jumps.iter().map(|jump| (jump.past, jump.said, jump.upto));
    assert!(jumps.eq([(1, 3, 1 + GLOBAL.step)]) && orders.ahead == 0);
    // Whoever was ahead hears it anew, whoever was not as it was, and nobody twice.
    let anew = 2 + GLOBAL.step;
    assert_eq!(poll(one, &paging), Some(anew));
    assert_eq!(one.state().interval, 201);
    assert_eq!(poll(late, &paging), Some(1));
    for device in [&mut *one, &mut *late] {
        assert_eq!(poll(device, &paging), None);
    }
    assert_eq!(send(&paging, 202).await, anew + 1);
    assert_eq!(poll(two, &paging), Some(anew));
    for device in [&mut *one, &mut *two, &mut *late] {
        assert_eq!(poll(device, &paging), Some(anew + 1));
        assert_eq!(device.state().interval, 202);
    }

    // A liar is not followed to the end of the orders, and hinders nobody.
    *liar = Device::new(State {
        order: u32::MAX,
        ..liar.state().clone()
    });
    assert_eq!(poll(liar, &paging), None);
    assert_eq!(send(&paging, 203).await, anew + 2);
    assert_eq!(paging.orders().await.unwrap().ahead, 1);
    assert_eq!(poll(one, &paging), Some(anew + 2));
    paging.stop().await;

    // The database alone is old: the snapshot knows what the devices have said, and no order is given below it.
    std::fs::copy(path("copy"), path("paging.sqlite")).unwrap();
    let paging = start(folder.path(), &hsm).await;
    assert!(send(&paging, 301).await > anew + 2);
    for device in [one, two] {
        poll(device, &paging);
        assert_eq!(device.state().interval, 301);
    }
    paging.stop().await;
}

/// Under scheme `random` nothing can be granted that a server would know: whoever asks is refused, and stays what it was.
#[tokio::test]
async fn nobody_is_granted_an_identity_that_no_server_knows() {
    let folder = tempfile::tempdir().unwrap();
    let hsm: Arc<dyn Hsm> = Arc::new(SoftHsm::generate().unwrap());
    let paging = start_as(folder.path(), &hsm, Scheme::Random).await;
    for (n, rolling) in [(0, false), (1, true)] {
        let se_id = SeId([0x5E, 0, 0, 0, 0, 0, 0, 0, 0, n]);
        paging.register(&[se_id], 1, rolling).await.unwrap();
        let (state, key) = paging.provision_all(&[se_id], 60).await.unwrap().remove(0);
        let mut device = Device::new(state);
        poll(&mut device, &paging);
        let request = Request {
            se_id: se_id.0,
            keyspace: device.state().keyspace,
            nonce: [7; 16],
        };
        let refused = paging.recover(&request.seal(&key)).await.unwrap_err().to_string();
        assert!(refused.contains("no identity to give"), "{refused}");
        poll(&mut device, &paging);
    }
    paging.stop().await;
}
