//! Builds the OS parts in `applets/` and puts them into `applets/prebuilt/`, or compares them with what stands there.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// The parts: package, and file stem of the module that cargo writes.
const PARTS: [(&str, &str); 4] = [
    ("meter-v1", "meter_v1"),
    ("meter-v2", "meter_v2"),
    ("locker", "locker"),
    ("tariff", "tariff"),
];

/// Builds all parts; with `check` only compares.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let folder = root.join("applets");
    let target = folder.join("target");
    // Paths must not find their way into a module, or it would differ from machine to machine.
    let flags = format!("--remap-path-prefix={}=/applets", folder.display());
    let status = crate::plain_cargo()
        .args(["build", "--release", "--locked", "--quiet", "--config"])
        .arg(format!("target.wasm32v1-none.rustflags=[\"{flags}\"]"))
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(&folder)
        .status()
        .context("cargo did not run")?;
    if !status.success() {
        bail!("the parts do not build; is the target wasm32v1-none installed (rustup target add)?");
    }
    if check {
        test_sdk(&folder, &target)?;
    }
    for (package, stem) in PARTS {
        let built = target
            .join("wasm32v1-none/release")
            .join(stem)
            .with_extension("wasm");
        let kept = folder.join("prebuilt").join(package).with_extension("wasm");
        let module = std::fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
        if !check {
            std::fs::write(&kept, &module).with_context(|| format!("writing {}", kept.display()))?;
            println!("applets: {package} {} bytes", module.len());
        } else if std::fs::read(&kept).ok().as_deref() == Some(module.as_slice()) {
            println!("applets: {package} is what its sources say");
        } else {
            bail!("{package} differs from its sources: run cargo xtask applets and commit the result");
        }
    }
    Ok(())
}

/// The development kit's own tests run here, not on wasm.
fn test_sdk(folder: &Path, target: &Path) -> Result<()> {
    let version = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("rustc did not run")?;
    let version = String::from_utf8(version.stdout)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let status = crate::plain_cargo()
        .args([
            "test",
            "--locked",
            "--quiet",
            "--package",
            "os-part-sdk",
            "--target",
        ])
        .arg(host.context("rustc does not say its host")?)
        .env("CARGO_TARGET_DIR", target)
        .current_dir(folder)
        .status()
        .context("cargo did not run")?;
    if status.success() {
        Ok(())
    } else {
        bail!("the development kit's tests fail")
    }
}
