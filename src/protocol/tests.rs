//! Replays what the fuzzers begin with and what they have found (`fixtures/fuzz`), through the checks that they use.

use std::fs;
use std::path::Path;

use super::checks::CHECKS;

#[test]
fn seeds_and_findings_of_the_fuzzers_pass_their_checks() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), CHECKS.len(), "a folder a target");
    for (target, check) in CHECKS {
        let mut files = 0;
        for entry in fs::read_dir(folder.join(target)).unwrap() {
            check(&fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files > 0, "{target}");
    }
}
