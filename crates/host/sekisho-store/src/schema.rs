//! The schema of the database, step by step.

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Number, name and text of each step. What is written here stays: a database keeps the hash of every step that it has taken, and is refused by a program that
/// has another one.
const STEPS: [(i64, &str, &str); 6] = [
    (1, "fleet", include_str!("../migrations/0001_fleet.sql")),
    (
        2,
        "version before",
        include_str!("../migrations/0002_version_before.sql"),
    ),
    (
        3,
        "targets and refusals",
        include_str!("../migrations/0003_targets_and_refusals.sql"),
    ),
    (
        4,
        "key versions",
        include_str!("../migrations/0004_key_versions.sql"),
    ),
    (5, "announced", include_str!("../migrations/0005_announced.sql")),
    (
        6,
        "package keys",
        include_str!("../migrations/0006_package_keys.sql"),
    ),
];

/// The steps as sqlx takes them. Its macro would read the folder when it is compiled, and for that is compiled with the drivers of all databases once more.
pub(crate) fn steps() -> Migrator {
    let step = |(number, name, text): (i64, &'static str, &'static str)| {
        Migration::new(
            number,
            name.into(),
            MigrationType::Simple,
            SqlStr::from_static(text),
            false,
        )
    };
    Migrator::with_migrations(STEPS.map(step).into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_is_a_step() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|file| file.file_name().into_string().ok())
            .collect();
        files.sort();
        let steps =
            super::STEPS.map(|(number, name, _)| format!("{number:04}_{}.sql", name.replace(' ', "_")));
        assert_eq!(files, steps);
    }
}
