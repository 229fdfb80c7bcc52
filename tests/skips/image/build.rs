//! Where an emulated chip has its memory.

fn main() {
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rustc-link-arg=-T{}/memory.x", env!("CARGO_MANIFEST_DIR"));
}
