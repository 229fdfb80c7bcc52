//! The paging store on SQLite and on a PostgreSQL of its own.

use crate::postgres;
use postgres::Postgres;
use sekisho_link::SeId;
use sekisho_paging::orders::GLOBAL;
use sekisho_store::StoreError;
use sekisho_store::paging::{Followed, Give, Intent, Jump, Node, PagingStore, Target};

fn se_id(n: u32) -> SeId {
    let mut id = [0; 10];
    id[..4].copy_from_slice(&n.to_be_bytes());
    SeId(id)
}

fn intent(to: Target) -> Intent {
    Intent {
        order: 0,
        to,
        kind: 1,
        argument: 60,
        not_before: None,
        expires: Some(4_000_000_000),
        withdrawn: false,
        past: None,
    }
}

async fn everything(store: PagingStore) {
    let ids: Vec<_> = (0..2500).map(se_id).collect();
    assert_eq!(store.register(&ids, 7, false).await.unwrap(), 2500);
    assert_eq!(store.register(&ids[..10], 7, false).await.unwrap(), 0);
    let all = store.changes(0).await.unwrap();
    assert_eq!(all.devices.len(), 2500);
    let mut indices: Vec<_> = all.devices.iter().map(|device| device.index).collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), 2500);
    assert_eq!(store.changes(all.upto).await.unwrap().upto, all.upto);

    let mut one = store.device(se_id(3)).await.unwrap();
    assert!(matches!(
        store.device(se_id(9999)).await,
        Err(StoreError::NotFound(_))
    ));
    one.domain = 9;
    one.generation = 2;
    one.start_key = vec![1, 2, 3];
    store.set_device(&one).await.unwrap();
    assert_eq!(store.device(se_id(3)).await.unwrap(), one);

    let orders = [Target::Everybody, Target::Group(7), Target::Device(one.index)];
    for (expected, to) in (1..).zip(orders) {
        assert_eq!(store.post(intent(to)).await.unwrap(), expected);
    }
    store.withdraw(2).await.unwrap();
    assert!(store.withdraw(20).await.is_err());
    let changes = store.changes(all.upto).await.unwrap();
    assert_eq!(changes.devices, [one]);
    assert_eq!(
        changes
            .intents
            .iter()
            .map(|intent| intent.withdrawn)
            .collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(changes.intents[2].to, orders[2]);
    orders_jump(&store, changes.upto).await;
    keyspaces_are_given_once(&store).await;
    rotation(&store).await;
    store.close().await;
}

/// Orders 1 to 3 were given, 2 is taken back; a device is done with order 9. What waits is given anew, and taken back with its original; whoever lies
/// moves the orders by so much and no more.
async fn orders_jump(store: &PagingStore, upto: u64) {
    let follow = |index, said| store.follow(index, said, 100);
    assert_eq!(follow(5, 3).await.unwrap(), Followed::Given);
    let jump = Jump {
        past: 3,
        upto: 3 + GLOBAL.step,
        index: 5,
        said: 9,
        at: 100,
    };
    assert_eq!(follow(5, 9).await.unwrap(), Followed::Jumped(jump));
    assert_eq!(follow(6, 9).await.unwrap(), Followed::Given);
    let changes = store.changes(upto).await.unwrap();
    let anew: Vec<_> = changes
        .intents
        .iter()
        .map(|held| (held.order, held.past))
        .collect();
    let first = jump.upto + 1;
    assert_eq!(anew, [(first, Some(3)), (first + 1, Some(3))]);
    assert_eq!(
        changes.intents[1].to,
        Target::Device(store.device(se_id(3)).await.unwrap().index)
    );
    assert_eq!(store.post(intent(Target::Everybody)).await.unwrap(), first + 2);
    store.withdraw(1).await.unwrap();
    let after = store.changes(changes.upto).await.unwrap().intents;
    let told: Vec<_> = after.iter().map(|held| (held.order, held.withdrawn)).collect();
    assert_eq!(told, [(1, true), (first + 2, false), (first, true)]);
    // A liar, from here on: eight steps in its life, and nothing for what is beyond.
    for said in [u32::MAX, first + 3 + 8 * GLOBAL.step] {
        assert_eq!(follow(7, said).await.unwrap(), Followed::Refused);
    }
    for step in 0..8 {
        let said = store.latest().await.unwrap().1 + 1;
        assert!(
            matches!(follow(7, said).await.unwrap(), Followed::Jumped(_)),
            "{step}"
        );
    }
    let before = store.latest().await.unwrap();
    assert_eq!(follow(7, before.1 + 1).await.unwrap(), Followed::Refused);
    assert_eq!(store.latest().await.unwrap(), before);
    assert_eq!(store.jumps().await.unwrap().len(), 9);
    assert!(matches!(
        follow(8, before.1 + 1).await.unwrap(),
        Followed::Jumped(_)
    ));
}

/// What a device was given counts like what was seen of it; one message at a time moves it.
async fn keyspaces_are_given_once(store: &PagingStore) {
    let from = store.latest().await.unwrap().0;
    let give = |domain, seen: (u8, u32)| async move {
        let device = Give {
            se_id: se_id(20),
            seen: Some(seen),
            step: 300,
        };
        let given = store.give(&[device], domain).await;
        given.map(|given| given[0].generation)
    };
    // The device is not seen again: at a local server alone, or asleep.
    assert_eq!(give(9, (0, 1)).await.unwrap(), 301);
    assert_eq!(give(9, (0, 1)).await.unwrap(), 301);
    let refused = give(11, (0, 1)).await.unwrap_err().to_string();
    assert!(
        refused.contains(&se_id(20).to_string()) && refused.contains("recall"),
        "{refused}"
    );
    assert_eq!(give(0, (0, 1)).await.unwrap(), 601);
    assert_eq!(give(0, (0, 1)).await.unwrap(), 601);
    assert_eq!(give(9, (0, 1)).await.unwrap(), 901);
    let index = store.device(se_id(20)).await.unwrap().index;
    assert_eq!(store.given(index).await.unwrap(), Some((9, 901)));
    let moves = store.changes(from).await.unwrap().intents;
    let moves: Vec<_> = moves.iter().map(|held| (held.argument, held.withdrawn)).collect();
    let at = |domain: u32, generation, withdrawn| (domain << 24 | generation, withdrawn);
    assert_eq!(moves, [at(9, 301, true), at(0, 601, true), at(9, 901, false)]);
    // It has come home by recovery, beyond what it was given.
    assert_eq!(give(11, (0, 902)).await.unwrap(), 1202);
    // It is somewhere that this database does not know of.
    for (domain, seen) in [(11, (9, 2000)), (9, (9, 2000))] {
        assert!(matches!(give(domain, seen).await, Err(StoreError::Device(..))));
    }
    assert_eq!(give(0, (9, 2000)).await.unwrap(), 2300);
    // A message that was taken back is sent again.
    let last = store.latest().await.unwrap();
    store.withdraw(last.1).await.unwrap();
    assert_eq!(give(0, (9, 2000)).await.unwrap(), 2300);
    assert_eq!(store.latest().await.unwrap().1, last.1 + 1);
    assert!(give(9, (0, 0x00FF_FFFE)).await.is_err());
    // All of them or none.
    let unknown = [se_id(21), se_id(9999)].map(|se_id| Give {
        se_id,
        seen: Some((0, 1)),
        step: 300,
    });
    assert!(matches!(
        store.give(&unknown, 9).await,
        Err(StoreError::NotFound(_))
    ));
    let index = store.device(se_id(21)).await.unwrap().index;
    assert_eq!(store.given(index).await.unwrap(), None);
}

/// A new epoch issues when every live node has read it, and not before.
async fn rotation(store: &PagingStore) {
    assert_eq!(store.add_key(0, &[1; 16]).await.unwrap(), 1);
    let first = store.changes(0).await.unwrap();
    assert!(first.keys[0].issues);
    let node = |name: &str, seen, change| Node {
        name: name.to_owned(),
        domain: 0,
        seen,
        change,
    };
    store.see(&node("a", 1000, first.upto)).await.unwrap();
    store.see(&node("b", 1000, first.upto)).await.unwrap();
    store.see(&node("gone", 100, 0)).await.unwrap();
    assert_eq!(store.add_key(0, &[2; 16]).await.unwrap(), 2);
    let second = store.changes(first.upto).await.unwrap();
    assert_eq!(
        second.keys.iter().map(|key| key.issues).collect::<Vec<_>>(),
        [true, false]
    );
    store.see(&node("a", 1001, second.upto)).await.unwrap();
    assert!(!store.issue_ready(1001).await.unwrap());
    store.see(&node("b", 1001, second.upto)).await.unwrap();
    // One that has ended when its clock was ahead is not waited for, one that is ahead by a little is.
    store.see(&node("ahead", 1002, first.upto)).await.unwrap();
    assert!(!store.issue_ready(1001).await.unwrap());
    store.see(&node("ahead", 1 << 32, first.upto)).await.unwrap();
    assert!(store.issue_ready(1001).await.unwrap());
    assert!(!store.issue_ready(1001).await.unwrap());
    assert!(store.retire(0, 2).await.is_err());
    store.retire(0, 1).await.unwrap();
    let last = store.changes(second.upto).await.unwrap();
    assert_eq!(
        last.keys
            .iter()
            .map(|key| (key.epoch, key.issues))
            .collect::<Vec<_>>(),
        [(2, true)]
    );
    assert_eq!(store.nodes().await.unwrap().len(), 4);
}

/// One more than every server accepts is not made, whatever domain it is of; a local server's domain in which nobody is gives its own back.
#[tokio::test]
async fn there_are_as_many_ticket_keys_as_every_server_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("paging.sqlite").display());
    let store = PagingStore::open(&url).await.unwrap();
    for domain in 0..16 {
        assert_eq!(store.add_key(domain, &[1; 16]).await.unwrap(), 1);
    }
    for domain in [0, 1, 99] {
        let more = store.add_key(domain, &[2; 16]).await;
        assert!(matches!(more, Err(StoreError::Conflict(_))), "{more:?}");
    }
    assert_eq!(store.keys().await.unwrap().len(), 16);
    store.register(&[se_id(1)], 0, false).await.unwrap();
    let mut device = store.device(se_id(1)).await.unwrap();
    device.domain = 3;
    store.set_device(&device).await.unwrap();
    for domain in [0, 3] {
        assert!(matches!(
            store.retire(domain, 1).await,
            Err(StoreError::Conflict(_))
        ));
    }
    store.retire(4, 1).await.unwrap();
    assert_eq!(store.add_key(4, &[2; 16]).await.unwrap(), 2);
    assert!(store.keys().await.unwrap().iter().all(|key| key.issues));
}

#[tokio::test]
async fn on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("paging.sqlite").display());
    everything(PagingStore::open(&url).await.unwrap()).await;
    // What is there is there again.
    let store = PagingStore::open(&url).await.unwrap();
    assert_eq!(store.changes(0).await.unwrap().devices.len(), 2500);
}

#[tokio::test]
async fn on_postgresql() {
    let postgres = Postgres::start();
    everything(PagingStore::open(&postgres.url()).await.unwrap()).await;
}

/// Numbers of changes become visible in their order, whoever writes: a reader that has seen one has seen all below.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_hide_no_change_from_a_reader() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let reader = PagingStore::open(&url).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = PagingStore::open(&url).await.unwrap();
        writers.spawn(async move {
            for _ in 0..50 {
                store.post(intent(Target::Everybody)).await.unwrap();
            }
        });
    }
    let (mut upto, mut seen) = (0, 0);
    while seen < 200 {
        let changes = reader.changes(upto).await.unwrap();
        seen += changes.intents.len();
        upto = changes.upto;
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert_eq!((seen, upto), (200, 200));
}
