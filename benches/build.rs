//! Builds DPDK's shim where its development package is installed.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(dpdk)");
    #[cfg(feature = "rivals")]
    dpdk();
}

#[cfg(feature = "rivals")]
fn dpdk() {
    println!("cargo::rerun-if-changed=arms/dpdk.c");
    // Prints what to link with; where it is not installed nothing is printed.
    if pkg_config::probe_library("libdpdk").is_err() {
        return;
    }
    let told = std::process::Command::new("pkg-config")
        .args(["--cflags", "libdpdk"])
        .output();
    let Ok(told) = told else { return };
    let mut shim = cc::Build::new();
    shim.file("arms/dpdk.c").opt_level(3).warnings(false);
    for flag in String::from_utf8_lossy(&told.stdout).split_whitespace() {
        shim.flag(flag);
    }
    match shim.try_compile("pagefrag_dpdk") {
        Ok(()) => println!("cargo::rustc-cfg=dpdk"),
        Err(error) => println!("cargo::warning=DPDK is left out: {error}"),
    }
}
