//! Several paging servers over one PostgreSQL: they answer for each other at any moment, whichever is killed, whichever rotates.

use crate::postgres;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use postgres::Postgres;
use sekisho_hsm::{Hsm, SoftHsm};
use sekisho_link::SeId;
use sekisho_paging::datagram::Reason;
use sekisho_paging::device::Device;
use sekisho_paging::message::Action;
use sekisho_server::paging::{Paging, PagingConfig, Scheme};
use sekisho_store::paging::Target;

fn se_id(n: u8) -> SeId {
    SeId([0x5E, 0, 0, 0, 0, 0, 0, 0, 0, n])
}

async fn node(database: &str, name: &str, hsm: &Arc<dyn Hsm>, directory: &std::path::Path) -> Arc<Paging> {
    let config = config(database, name, directory);
    Arc::new(Paging::start(config, Arc::clone(hsm)).await.unwrap())
}

fn config(database: &str, name: &str, directory: &std::path::Path) -> PagingConfig {
    PagingConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        threads: 1,
        scheme: Scheme::Ticket,
        database: database.to_owned(),
        directory: Some(directory.join(name)),
        domain: 0,
        node: name.to_owned(),
    }
}

struct Client(UdpSocket, u32);

impl Client {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Self(socket, 0)
    }

    /// One poll to a node; the answer, if there is one.
    fn ask(&mut self, device: &mut Device, node: &Paging) -> Option<[u8; 44]> {
        self.1 += 1;
        let poll = device.poll(Reason::Periodic, self.1.to_be_bytes());
        self.0.send_to(&poll, node.engine().local_addr()).unwrap();
        let mut answer = [0; 44];
        self.0.recv(&mut answer).ok()?;
        Some(answer)
    }

    fn poll(&mut self, device: &mut Device, node: &Paging) {
        let answer = self.ask(device, node).expect("no answer");
        let accepted = device.receive(&answer).unwrap();
        device.promote(accepted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_answer_for_each_other() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let folder = tempfile::tempdir().unwrap();
    let hsm: Arc<dyn Hsm> = Arc::new(SoftHsm::generate().unwrap());
    let a = node(&url, "a", &hsm, folder.path()).await;
    let mut b = node(&url, "b", &hsm, folder.path()).await;
    let ids: Vec<_> = (0..20).map(se_id).collect();
    a.register(&ids[..10], 1, false).await.unwrap();
    b.register(&ids[10..], 2, true).await.unwrap();
    for paging in [&a, &b] {
        paging.look(100).await.unwrap();
    }
    let mut devices: Vec<_> = a
        .provision_all(&ids, 60)
        .await
        .unwrap()
        .into_iter()
        .map(|(state, _)| Device::new(state))
        .collect();
    let mut client = Client::new();

    // Property 3: the same next identity from both, byte by byte.
    let mut twin = devices[0].clone();
    let first = client.ask(&mut devices[0], &a).unwrap();
    let second = client.ask(&mut twin, &b).unwrap();
    assert_eq!(
        devices[0].receive(&first).unwrap().state().uid,
        twin.receive(&second).unwrap().state().uid
    );

    for round in 0..12u32 {
        for (n, device) in (0u32..).zip(&mut devices) {
            let to_a = (n + round).count_ones() % 2 == 0;
            client.poll(device, if to_a { &a } else { &b });
        }
        match round {
            3 => {
                // Posted at one, heard at the other.
                a.post(Target::Group(1), Action::PollEvery(77), None, None)
                    .await
                    .unwrap();
                b.look(100).await.unwrap();
            }
            6 => {
                // Killed: nothing is written down. What it knew of rolling keys is older than the devices.
                drop(b);
                b = node(&url, "b", &hsm, folder.path()).await;
            }
            8 => {
                a.rotate(0).await.unwrap();
                for now in 101..104 {
                    a.look(now).await.unwrap();
                    b.look(now).await.unwrap();
                }
            }
            _ => {}
        }
    }
    let is_done = |device: &&Device| device.state().interval == 77;
    let done = |range: std::ops::Range<usize>| devices[range].iter().filter(is_done).count();
    assert_eq!((done(0..10), done(10..20)), (10, 0));
    assert_eq!(a.nodes().await.unwrap().len(), 2);
    a_name_that_is_alive_is_nobody_elses(&a, &config(&url, "a", &folder.path().join("second")), &hsm).await;
    a.stop().await;
    b.stop().await;
}

/// One whose server has ended is taken at once.
async fn a_name_that_is_alive_is_nobody_elses(a: &Arc<Paging>, second: &PagingConfig, hsm: &Arc<dyn Hsm>) {
    let running = tokio::spawn(Arc::clone(a).run());
    while a.nodes().await.unwrap()[0].seen == 103 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = Paging::start(second.clone(), Arc::clone(hsm)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("under the name a"), "{refused}");
    running.abort();
    assert!(Paging::start(second.clone(), Arc::clone(hsm)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_device_recovers_and_a_lost_grant_is_given_again() {
    use sekisho_paging::recovery::{Grant, Request};
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("p.sqlite").display());
    let hsm: Arc<dyn Hsm> = Arc::new(SoftHsm::generate().unwrap());
    let paging = node(&url, "a", &hsm, folder.path()).await;
    paging.register(&[se_id(1)], 1, true).await.unwrap();
    let (state, key) = paging.provision_all(&[se_id(1)], 60).await.unwrap().remove(0);
    let mut device = Device::new(state);
    let mut client = Client::new();
    client.poll(&mut device, &paging);
    client.poll(&mut device, &paging);
    let request = Request {
        se_id: se_id(1).0,
        keyspace: device.state().keyspace,
        nonce: [7; 16],
    };
    let sealed = request.seal(&key);
    let lost = paging.recover(&sealed).await.unwrap();
    // Until the device has proved the new identity, the old one is answered.
    client.poll(&mut device, &paging);
    assert_eq!(
        paging.recover(&sealed).await.unwrap(),
        lost,
        "the same request gets the same grant"
    );
    let grant = Grant::open(&key, &sealed, &lost).unwrap();
    device.recovered(grant.state(&key, &request, device.state()));
    client.poll(&mut device, &paging);
    client.poll(&mut device, &paging);
    assert_eq!(device.state().keyspace.generation, 1);
    let mut forged = sealed;
    forged[20] ^= 1;
    assert!(paging.recover(&forged).await.is_err());
    paging.stop().await;
}
