//! Whose a file is.

use std::fs::Metadata;

/// Returns whether a file or folder belongs to this user or to root, and nobody else may write to it, so that its contents
/// come from whom the process trusts anyway. Systems other than Unix do not say it in this way; there it is always so.
pub fn only_we_write(found: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        // SAFETY: geteuid has no conditions, and does not fail.
        let us = unsafe { libc::geteuid() };
        (found.uid() == us || found.uid() == 0) && found.mode() & 0o022 == 0
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        true
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn others_may_read_but_not_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "x").unwrap();
        for (mode, ours) in
            [(0o600, true), (0o444, true), (0o755, true), (0o660, false), (0o602, false), (0o777, false)]
        {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(only_we_write(&fs::metadata(&path).unwrap()), ours, "{mode:o}");
        }
    }
}
