//! What memcheck says, judged: a branch on the verdict of a comparison in constant time is meant; anything else that depends on a secret is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// Places that may depend on a secret: file, what stands in the line, and the reason. Which of them come up depends on what the compiler makes of them.
pub(crate) const ALLOWED: &[(&str, &str, &str)] = &[
    (
        "sekisho-keys/src/verdict.rs",
        "YES",
        "the verdict of a comparison in constant time",
    ),
    (
        "sekisho-nvm/src/crc.rs",
        "NIBBLES.get(index)",
        "an address within 64 bytes: the sum of a record, keys among them; seen where something caches single words of the flash",
    ),
    (
        "sekisho-keys/src/rustcrypto/aes.rs",
        ".unwrap_key(wrapped, out)",
        "the library's verdict on a wrapped key: one comparison of a whole word",
    ),
    (
        "sekisho-keys/src/rustcrypto/aes.rs",
        ".decrypt_inout_detached(",
        "the library's verdict on a tag, compared in constant time",
    ),
    (
        "sekisho-keys/src/rustcrypto/p256.rs",
        "SigningKey::from_slice",
        "whether a point is the one at infinity: never for a key",
    ),
    (
        "sekisho-keys/src/rustcrypto/p256.rs",
        "multipart_sign",
        "whether r or s is zero: never, but once in 2^256",
    ),
    (
        "sekisho-keys/src/rustcrypto/p256.rs",
        "diffie_hellman",
        "whether a point is the one at infinity: never for two keys",
    ),
    (
        "sekisho-keys/src/padding.rs",
        "",
        "how long a text is that a MAC has vouched for",
    ),
    (
        "sekisho-messaging/src/card.rs",
        "accepted.as_ref().is_err_and",
        "the verdict on a MAC, handed on",
    ),
    (
        "sekisho-messaging/src/card.rs",
        "objects.verify(",
        "the verdict on a MAC, handed on",
    ),
    (
        "sekisho-messaging/src/error.rs",
        "match self",
        "the verdict on a MAC, as a status word",
    ),
    (
        "sekisho-os/src/keys/record.rs",
        ".contains(&own)",
        "the verdict on two keys, compared in constant time",
    ),
    (
        "sekisho-applets/src/card_manager/put_key.rs",
        "check_value(reader, &kcv)",
        "the verdict on a check value, handed on",
    ),
    (
        "sekisho-applets/src/file_system/keys.rs",
        "compare(self)",
        "the verdict on a PIN or key, handed on",
    ),
    (
        "sekisho-os/src/loader/authorise.rs",
        "vouched(",
        "the verdict on a code, handed on",
    ),
    (
        "sekisho-os/src/loader/authorise.rs",
        "if verdict.is_yes()",
        "the verdict on a code, as a status word",
    ),
];

/// A place in the workspace where something depends on a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    file: String,
    line: usize,
    function: String,
    /// "UninitCondition": a branch; "UninitValue": an address.
    kind: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind.as_str() {
            "UninitCondition" => "branch",
            "UninitValue" => "address",
            kind => kind,
        };
        write!(f, "{}:{} {what} in {}", self.file, self.line, self.function)
    }
}

/// What a conversation showed.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Branches on verdicts.
    pub(crate) verdicts: BTreeSet<Place>,
    /// Places of the list, by their number in it.
    pub(crate) allowed: BTreeSet<usize>,
    /// What must not be.
    pub(crate) found: BTreeMap<Place, Vec<String>>,
}

type Node<'d> = roxmltree::Node<'d, 'd>;

/// One report: where the program was, innermost first.
struct Stack<'d> {
    frames: Vec<Node<'d>>,
    kind: String,
    root: &'d Path,
}

impl Stack<'_> {
    fn path(frame: &Node<'_>) -> String {
        format!("{}/{}", text(frame, "dir"), text(frame, "file"))
    }

    fn goes_through(&self, file: &str) -> bool {
        self.frames.iter().any(|frame| Self::path(frame).contains(file))
    }

    /// The innermost place of the workspace.
    fn place(&self) -> Option<Place> {
        self.frames.iter().find_map(|frame| {
            let full = Self::path(frame);
            let file = Path::new(&full).strip_prefix(self.root).ok()?;
            Some(Place {
                file: file.to_string_lossy().into_owned(),
                line: text(frame, "line").parse().unwrap_or(0),
                function: text(frame, "fn"),
                kind: self.kind.clone(),
            })
        })
    }

    /// Whether bytes are compared until two differ, by us and not by a library.
    fn compares(&self) -> bool {
        let is_cmp =
            |frame: &Node<'_>| text(frame, "fn").contains("cmp") && !text(frame, "fn").contains("::cmp");
        let is_beneath = |frame: &Node<'_>| is_cmp(frame) || Self::path(frame).contains("library/core");
        let caller = self.frames.iter().find(|frame| !is_beneath(frame));
        self.frames.first().is_some_and(is_cmp)
            && caller.is_some_and(|frame| Path::new(&Self::path(frame)).starts_with(self.root))
    }

    fn trace(&self) -> Vec<String> {
        let line = |frame: &Node<'_>| {
            let [function, file, line] = ["fn", "file", "line"].map(|name| text(frame, name));
            format!("{function} ({file}:{line})")
        };
        self.frames.iter().take(12).map(line).collect()
    }
}

/// Judges memcheck's report of what happens in `places` of the workspace and below, where that was reached `through` some file.
pub(crate) fn judge(xml: &str, root: &Path, through: &str, places: &[&str]) -> Judged {
    let document = roxmltree::Document::parse(xml).expect("memcheck's report is XML");
    let mut judged = Judged::default();
    for error in document.descendants().filter(|node| node.has_tag_name("error")) {
        let stack = error.children().find(|node| node.has_tag_name("stack"));
        let frames = stack.into_iter().flat_map(|stack| stack.children());
        let stack = Stack {
            frames: frames.filter(|node| node.has_tag_name("frame")).collect(),
            kind: text(&error, "kind"),
            root,
        };
        let place = stack.place().filter(|_| stack.goes_through(through));
        let Some(place) = place.filter(|place| places.iter().any(|part| place.file.contains(part))) else {
            continue;
        };
        let source = std::fs::read_to_string(root.join(&place.file)).unwrap_or_default();
        // A statement has more lines than one, and which of them a branch is said to be in is the compiler's.
        let lines = source.lines().skip(place.line.saturating_sub(2)).take(3);
        let line = lines.collect::<Vec<_>>().join("\n");
        let is_allowed =
            |(file, text, _): &(&str, &str, &str)| place.file.ends_with(file) && line.contains(text);
        if stack.compares() {
            judged.found.insert(place, stack.trace());
        } else if line.contains("ct_eq(") {
            judged.verdicts.insert(place);
        } else if let Some(at) = ALLOWED.iter().position(is_allowed) {
            judged.allowed.insert(at);
        } else {
            judged.found.insert(place, stack.trace());
        }
    }
    judged
}

fn text(node: &Node<'_>, name: &str) -> String {
    let child = node.children().find(|child| child.has_tag_name(name));
    child
        .and_then(|child| child.text())
        .unwrap_or_default()
        .to_owned()
}
