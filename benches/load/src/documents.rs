//! Writes the tables into the documents, between two marker lines, and nothing else.

use std::path::Path;

use crate::fleet::{Bad, Outcome};
use crate::results::Results;
use crate::table::{CHINESE, ENGLISH};
use crate::{sizing, table};

const DOCUMENTS: [(&str, usize); 2] = [("README.md", ENGLISH), ("README.zh.md", CHINESE)];

/// Writes both tables into every document below `root`.
pub fn update(root: &Path, results: &Results) -> Outcome<()> {
    for (name, language) in DOCUMENTS {
        let path = root.join(name);
        let mut text = std::fs::read_to_string(&path)?;
        text = between(&text, "bench", &table::markdown(results, language)).map_err(|bad| Bad(format!("{name}: {bad}")))?;
        if let Some(sizes) = sizing::markdown(results, language) {
            text = between(&text, "sizing", &sizes).map_err(|bad| Bad(format!("{name}: {bad}")))?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}

/// `text` with what stands between the markers of `name` replaced.
fn between(text: &str, name: &str, new: &str) -> Outcome<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let missing = || Bad(format!("no lines {} and {end}", begin.trim()));
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{new}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let text = "a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n";
        let new = between(text, "bench", "new").unwrap();
        assert_eq!(new, "a\n<!-- bench:begin -->\n\nnew\n<!-- bench:end -->\nb\n");
        assert_eq!(between(&new, "bench", "new").unwrap(), new);
        assert!(between("a\n", "bench", "new").is_err());
    }
}
