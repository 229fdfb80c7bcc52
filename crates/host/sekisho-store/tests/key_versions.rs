//! What is counted as it changes is what a full count finds.

use std::collections::BTreeMap;

use sekisho_link::SeId;
use sekisho_store::Store;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

fn se(number: u32) -> SeId {
    let mut id = [0; 10];
    id[6..].copy_from_slice(&number.to_be_bytes());
    SeId(id)
}

/// By a count of all devices; those that have proved none obey the first.
async fn counted(pool: &SqlitePool) -> Vec<(u32, u64)> {
    let rows: Vec<(i64,)> = sqlx::query_as("SELECT key_version FROM devices")
        .fetch_all(pool)
        .await
        .unwrap();
    let mut counts = BTreeMap::new();
    for (version,) in rows {
        *counts.entry(u32::try_from(version).unwrap().max(1)).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}

#[tokio::test]
async fn key_versions_are_those_of_a_full_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.sqlite");
    let store = Store::open(&path).await.unwrap();
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    assert_eq!(store.key_versions().await.unwrap(), []);
    let devices: Vec<_> = (0..300).map(|number| (se(number), 0x30)).collect();
    store.register(&devices[..200], 1).await.unwrap();
    // Some are known already.
    store.register(&devices[100..], 2).await.unwrap();
    assert_eq!(store.key_versions().await.unwrap(), [(1, 300)]);
    for number in 0..900_u32 {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("UPDATE devices SET key_version = $1 WHERE se_id = $2")
            .bind(i64::from(number % 5))
            .bind(se(number * 7 % 301).to_string())
            .execute(&mut *transaction)
            .await
            .unwrap();
        // What is not committed is not counted.
        if number % 3 == 0 {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
        }
        if number % 50 == 0 {
            assert_eq!(store.key_versions().await.unwrap(), counted(&pool).await);
        }
    }
    sqlx::query("DELETE FROM devices WHERE key_version = 4")
        .execute(&pool)
        .await
        .unwrap();
    let all = store.key_versions().await.unwrap();
    assert_eq!(all, counted(&pool).await);
    assert!(all.len() == 3, "{all:?}");
}
