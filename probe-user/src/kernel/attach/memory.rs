/// Gives memory that was freed back to the system. What describes the kernel's types takes tens of megabytes while programs are
/// loaded; a few small pieces above keep the C library from giving it back (glibc, `malloc_trim(3)`).
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the C library's own call, for which no crate has a safe one")]
    // SAFETY: it takes a number and is safe at any time, from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
