//! When the disk says that it did not keep what it was given.

/// Ends the process. After a sync that failed, the kernel may have dropped what was to be written and marked it clean: the next sync
/// would succeed, and what was answered after it would be built on nothing ("Can applications recover from fsync failures?", USENIX
/// ATC 2020). What is on the disk is read anew at the next start, as after a power cut.
pub(crate) fn end(what: &str, error: &dyn std::error::Error) -> ! {
    tracing::error!(%error, "{what} could not be brought onto the disk: the process ends, since nothing can be promised any more; see to the disk, then start it again");
    std::process::exit(1)
}
