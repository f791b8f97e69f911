//! Has the linker mark the module as one that is never unloaded.

fn main() {
    // Envoy closes a module's file with the last configuration that names it, on the main thread. A
    // worker may be in it at that moment, or come back to it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
