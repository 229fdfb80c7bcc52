//! The two requests of memcheck are macros of C.

fn main() {
    println!("cargo:rerun-if-changed=src/mark.c");
    cc::Build::new().file("src/mark.c").compile("mark");
}
