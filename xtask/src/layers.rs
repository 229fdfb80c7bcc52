//! The layout check: which ring a package stands in decides what it may depend on; and no product has a feature that exists for tests.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Features of packages of this workspace that exist for tests: keys that can be looked at, flash that can be cut, ciphers that no new card has.
const TEST_FEATURES: [&str; 3] = ["expose-secrets", "test-support", "legacy-tdes"];

/// Packages that exist for tests: no product depends on one.
const TEST_PACKAGES: [&str; 2] = ["sekisho-card-tests", "sekisho-counted"];

/// Crates of a device that has nothing else: they depend on crates of wire, and on none from elsewhere (`docs/spec/tls-apdu.md`).
const OF_WIRE_ALONE: [&str; 1] = ["sekisho-bridge"];

/// Where all computing of the card and of the protocols stands (`docs/decisions/0015-chip.md`).
const ENGINE: &str = "sekisho-keys";
/// Crates that compute, by what their names begin with.
const COMPUTES: [&str; 25] = [
    "aead",
    "aes",
    "blake",
    "block-",
    "cbc",
    "chacha",
    "cipher",
    "cmac",
    "crypto",
    "ctr",
    "curve25519",
    "des",
    "digest",
    "ecdsa",
    "ed25519",
    "elliptic",
    "ghash",
    "hkdf",
    "hmac",
    "k256",
    "p256",
    "p384",
    "ring",
    "rsa",
    "sha",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ring {
    Wire,
    Proto,
    Card,
    Host,
    Tests,
    Top,
}

impl Ring {
    /// The ring of the package whose manifest stands at `path`, relative to the workspace root.
    fn of(path: &str) -> Option<Self> {
        let ring = match path {
            p if p.starts_with("crates/wire/") => Self::Wire,
            p if p.starts_with("crates/proto/") => Self::Proto,
            p if ["crates/card/", "firmware/core/"]
                .iter()
                .any(|card| p.starts_with(card)) =>
            {
                Self::Card
            }
            p if p.starts_with("crates/host/") => Self::Host,
            p if p.starts_with("tests/card/") => Self::Tests,
            p if ["apps/", "xtask/"].iter().any(|top| p.starts_with(top)) => Self::Top,
            _ => return None,
        };
        Some(ring)
    }

    /// Whether a package of this ring may depend on one of `other`. Card and host never see each other,
    /// not even in their tests; that what the card's tests share is of tests alone is [`test_features`]'s.
    fn may_use(self, other: Self) -> bool {
        match self {
            Self::Wire => other == Self::Wire,
            Self::Proto => matches!(other, Self::Wire | Self::Proto),
            Self::Card => matches!(other, Self::Wire | Self::Proto | Self::Card | Self::Tests),
            Self::Tests => matches!(other, Self::Wire | Self::Proto | Self::Card),
            Self::Host => matches!(other, Self::Wire | Self::Proto | Self::Host),
            Self::Top => true,
        }
    }
}

/// Runs `cargo metadata` and checks every edge between two packages of the workspace.
pub(crate) fn check(root: &Path) -> Result<()> {
    let output = crate::cargo()
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .context("cargo metadata did not run")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    let mut wrong = violations(&metadata, root)?;
    wrong.extend(test_features(&metadata)?);
    wrong.extend(past_the_seam(&metadata, root)?);
    wrong.extend(beside_wire(&metadata, root)?);
    wrong.extend(crate::circles::check(root)?);
    for line in &wrong {
        println!("layers: {line}");
    }
    if wrong.is_empty() {
        println!(
            "layers: every dependency points the right way, no modules use each other in a circle, no product has a feature for tests, and sekisho-keys alone computes"
        );
        Ok(())
    } else {
        bail!(
            "{} dependencies are not as they should be; see Layout in ARCHITECTURE.md",
            wrong.len()
        )
    }
}

/// Where a product would be built with what exists for tests: a dependency that is not one of tests, on a package for tests or with a feature for them, or a feature
/// that brings such a feature with it.
fn test_features(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let is_for_tests = |feature: &str| {
        let name = feature.rsplit(['/', ':']).next().unwrap_or(feature);
        TEST_FEATURES.contains(&name)
    };
    let strings = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if TEST_PACKAGES.contains(&name) {
            continue;
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"] == "dev" {
                continue;
            }
            let other = dependency["name"].as_str().unwrap_or_default();
            if TEST_PACKAGES.contains(&other) {
                wrong.push(format!("{name} depends on {other}, which is for tests"));
            }
            for feature in strings(&dependency["features"])
                .iter()
                .filter(|feature| is_for_tests(feature))
            {
                wrong.push(format!(
                    "{name} turns on {feature} of {other}, which is for tests"
                ));
            }
        }
        for (feature, brings) in package["features"].as_object().into_iter().flatten() {
            for brought in strings(brings).iter().filter(|brought| is_for_tests(brought)) {
                if !is_for_tests(feature) {
                    wrong.push(format!(
                        "{name}: feature {feature} brings {brought}, which is for tests"
                    ));
                }
            }
        }
    }
    Ok(wrong)
}

/// Crates of wire, proto and card that would compute without sekisho-keys, and so without the engine that a build names. Their tests may: as a second opinion.
fn past_the_seam(metadata: &Value, root: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let below_host = manifest
            .strip_prefix(root)
            .ok()
            .and_then(|path| Ring::of(&path.to_string_lossy()))
            .is_some_and(|ring| matches!(ring, Ring::Wire | Ring::Proto | Ring::Card));
        if !below_host || name == ENGINE || TEST_PACKAGES.contains(&name) {
            continue;
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            if dependency["kind"] != "dev" && COMPUTES.iter().any(|begin| other.starts_with(begin)) {
                wrong.push(format!("{name} computes with {other}, past sekisho-keys"));
            }
        }
    }
    Ok(wrong)
}

/// What crates that are to depend on wire alone depend on beside it; their tests may.
fn beside_wire(metadata: &Value, root: &Path) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let is_of_wire = |name: &str| {
        packages.iter().any(|package| {
            let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
            let path = manifest.strip_prefix(root).unwrap_or(manifest);
            package["name"] == name && Ring::of(&path.to_string_lossy()) == Some(Ring::Wire)
        })
    };
    let mut wrong = Vec::new();
    for name in OF_WIRE_ALONE {
        let package = packages.iter().find(|package| package["name"] == name);
        let package = package.with_context(|| format!("no {name}"))?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            if dependency["kind"] != "dev" && !is_of_wire(other) {
                wrong.push(format!("{name} depends on {other}, which is not of wire"));
            }
        }
    }
    Ok(wrong)
}

fn violations(metadata: &Value, root: &Path) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut rings = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().context("package without a name")?;
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let relative = manifest
            .strip_prefix(root)
            .unwrap_or(manifest)
            .to_string_lossy()
            .replace('\\', "/");
        let ring = Ring::of(&relative).with_context(|| format!("{name} at {relative} is in no ring"))?;
        rings.insert(name, ring);
    }
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            if let (Some(&from), Some(&to)) = (rings.get(name), rings.get(other))
                && !from.may_use(to)
            {
                wrong.push(format!("{name} ({from:?}) depends on {other} ({to:?})"));
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn card_and_host_never_see_each_other() {
        let package = |name: &str, folder: &str, needs: &[&str]| {
            let needs: Vec<_> = needs.iter().map(|n| json!({ "name": n })).collect();
            json!({ "name": name, "manifest_path": format!("/w/{folder}/{name}/Cargo.toml"), "dependencies": needs })
        };
        let good = json!({ "packages": [
            package("a", "crates/wire", &[]), package("c", "crates/card", &["a"]),
            package("h", "crates/host", &["a"]), package("app", "apps", &["c", "h"]) ] });
        assert!(violations(&good, Path::new("/w")).unwrap().is_empty());
        let bad = json!({ "packages": [
            package("c", "crates/card", &["h"]), package("h", "crates/host", &["c"]) ] });
        assert_eq!(violations(&bad, Path::new("/w")).unwrap().len(), 2);
        let lost = json!({ "packages": [package("x", "elsewhere", &[])] });
        assert!(violations(&lost, Path::new("/w")).is_err());
    }

    #[test]
    fn sekisho_keys_alone_computes() {
        let package = |name: &str, folder: &str, kind: Option<&str>, other: &str| {
            json!({ "packages": [{ "name": name, "manifest_path": format!("/w/{folder}/{name}/Cargo.toml"),
                "dependencies": [{ "name": other, "kind": kind }] }] })
        };
        let found = |package: &Value| past_the_seam(package, Path::new("/w")).unwrap();
        assert_eq!(
            found(&package("messaging", "crates/proto", None, "aes")),
            ["messaging computes with aes, past sekisho-keys"]
        );
        for (folder, other) in [
            ("crates/card", "p256"),
            ("crates/wire", "sha2"),
            ("crates/proto", "aes-siv"),
        ] {
            assert_eq!(
                found(&package("x", folder, Some("build"), other)).len(),
                1,
                "{other}"
            );
            assert!(
                found(&package("x", folder, Some("dev"), other)).is_empty(),
                "{other}"
            );
        }
        assert!(found(&package("x", "crates/card", None, "zeroize")).is_empty());
        assert!(found(&package("x", "crates/host", None, "argon2")).is_empty());
        assert!(found(&package("sekisho-keys", "crates/proto", None, "aes")).is_empty());
    }

    #[test]
    fn a_device_depends_on_wire_alone() {
        let bridge = |kind: Option<&str>, other: &str| {
            json!({ "packages": [
                { "name": "sekisho-apdu", "manifest_path": "/w/crates/wire/sekisho-apdu/Cargo.toml" },
                { "name": "sekisho-keys", "manifest_path": "/w/crates/proto/sekisho-keys/Cargo.toml" },
                { "name": "sekisho-bridge", "manifest_path": "/w/crates/proto/sekisho-bridge/Cargo.toml",
                    "dependencies": [{ "name": "sekisho-apdu" }, { "name": other, "kind": kind }] }] })
        };
        let found = |package: &Value| beside_wire(package, Path::new("/w")).unwrap();
        assert!(found(&bridge(None, "sekisho-apdu")).is_empty());
        assert!(found(&bridge(Some("dev"), "proptest")).is_empty());
        for other in ["sekisho-keys", "rustls", "zeroize"] {
            assert_eq!(found(&bridge(None, other)).len(), 1, "{other}");
            assert_eq!(found(&bridge(Some("build"), other)).len(), 1, "{other}");
        }
        assert!(beside_wire(&json!({ "packages": [] }), Path::new("/w")).is_err());
    }

    #[test]
    fn no_product_has_a_feature_for_tests() {
        let package = |kind: Option<&str>, features: &Value| {
            json!({ "packages": [{ "name": "app", "features": features,
                "dependencies": [{ "name": "messaging", "kind": kind, "features": ["expose-secrets", "other"] }] }] })
        };
        let none = json!({});
        let found = test_features(&package(None, &none)).unwrap();
        assert_eq!(
            found,
            ["app turns on expose-secrets of messaging, which is for tests"]
        );
        assert_eq!(test_features(&package(Some("build"), &none)).unwrap().len(), 1);
        assert!(test_features(&package(Some("dev"), &none)).unwrap().is_empty());
        let others = json!({ "packages": [
            { "name": "app", "dependencies": [{ "name": "sekisho-card-tests", "kind": null }] },
            { "name": "sekisho-card-tests", "dependencies": [{ "name": "nvm", "kind": null, "features": ["test-support"] }] },
            { "name": "os", "dependencies": [{ "name": "sekisho-card-tests", "kind": "dev" }] }] });
        assert_eq!(
            test_features(&others).unwrap(),
            ["app depends on sekisho-card-tests, which is for tests"]
        );
        let default = json!({ "default": ["nvm/test-support"], "test-support": ["nvm/test-support"], "fast": ["dep:simd"] });
        let found = test_features(&package(Some("dev"), &default)).unwrap();
        assert_eq!(
            found,
            ["app: feature default brings nvm/test-support, which is for tests"]
        );
    }
}
