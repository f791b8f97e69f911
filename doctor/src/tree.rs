//! A configuration as a tree: YAML or JSON, each value with its line and column.
//!
//! It takes what Envoy takes: aliases, `!ignore` on keys, duplicate keys (the last counts), a field
//! called `health_checks` or `healthChecks`. An alias is the node of its anchor, shared, so that an
//! alias bomb needs no memory; its weight is counted, so that walking it is bounded too.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// The longest text that is read: a `/config_dump` of 12,000 static clusters has 41 MB, of 12,000 from
/// CDS with `include_eds` 37 MB.
pub const MAX_BYTES: usize = 49_000_000;
/// The most values, an alias counted with all that its anchor holds.
const MAX_VALUES: u32 = 3_000_000;
/// The deepest nesting: Envoy's configurations reach some 30.
const MAX_DEPTH: usize = 100;

/// A value and where it stands.
#[derive(Debug)]
pub struct Node {
    /// From 1: of an object, that of its first key; of an alias, the anchor's.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What it is.
    pub value: Value,
    quoted: bool,
    weight: u32,
}

/// What a [`Node`] is.
#[derive(Debug)]
pub enum Value {
    /// `null`, `~` or nothing: to Envoy, as if the field were not there.
    Null,
    /// A number, a truth value or a text.
    Scalar(Box<str>),
    /// A text after `|`, whose lines are lines of the file, from this one on (the
    /// first that is not blank).
    Block(Box<str>),
    /// A list.
    List(Box<[Rc<Node>]>),
    /// An object, in the order of the text.
    Map(Box<[(Rc<str>, Rc<Node>)]>),
}

/// Why a text cannot be read: one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the first document of a text.
pub fn parse(text: &[u8]) -> Result<Rc<Node>, Refusal> {
    if text.len() > MAX_BYTES {
        return Err(Refusal(format!(
            "is longer than {} MB",
            MAX_BYTES / 1_000_000
        )));
    }
    let text = std::str::from_utf8(text).map_err(|_| Refusal("is no text (UTF-8)".to_owned()))?;
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        let (event, span) = event.map_err(|error| Refusal(format!("is no YAML: {error}")))?;
        if let Some(root) = builder.take(event, span)? {
            return Ok(root);
        }
    }
    Err(Refusal("is empty".to_owned()))
}

/// A list or an object whose end has not come.
struct Open {
    line: usize,
    column: usize,
    anchor: usize,
    weight: u32,
    holds: Holds,
}

enum Holds {
    List(Vec<Rc<Node>>),
    /// The entries, and the key whose value comes next.
    Map(Vec<(Rc<str>, Rc<Node>)>, Option<Key>),
}

struct Key {
    name: Rc<str>,
    ignored: bool,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    /// Keys as seen: there are few, each often.
    names: HashSet<Rc<str>>,
    values: u32,
}

impl Builder {
    /// Takes one event; the last one of the document gives its root.
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<Option<Rc<Node>>, Refusal> {
        let (line, column) = (span.start.line(), span.start.col() + 1);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let ignored = tag.is_some_and(|tag| tag.suffix == "ignore");
                let value = match style {
                    ScalarStyle::Plain if is_null(&text) => Value::Null,
                    ScalarStyle::Literal => Value::Block(text.into()),
                    _ => Value::Scalar(text.into()),
                };
                let quoted = style != ScalarStyle::Plain;
                self.finish(
                    Node {
                        line,
                        column,
                        value,
                        quoted,
                        weight: 1,
                    },
                    anchor,
                    ignored,
                )
            }
            Event::SequenceStart(anchor, _) => {
                self.begin(line, column, anchor, Holds::List(Vec::new()))
            }
            Event::MappingStart(anchor, _) => {
                self.begin(line, column, anchor, Holds::Map(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => self.put(Rc::clone(node), false),
                None => Err(Refusal(format!(
                    "line {line}: an alias inside its own anchor"
                ))),
            },
            Event::DocumentEnd => Err(Refusal("is empty".to_owned())),
            _ => Ok(None),
        }
    }

    fn begin(
        &mut self,
        line: usize,
        column: usize,
        anchor: usize,
        holds: Holds,
    ) -> Result<Option<Rc<Node>>, Refusal> {
        if self.open.len() >= MAX_DEPTH {
            let fault = format!("line {line}: nested deeper than {MAX_DEPTH} levels");
            return Err(Refusal(fault));
        }
        self.open.push(Open {
            line,
            column,
            anchor,
            weight: 1,
            holds,
        });
        Ok(None)
    }

    fn close(&mut self) -> Result<Option<Rc<Node>>, Refusal> {
        let Some(open) = self.open.pop() else {
            return Ok(None);
        };
        let value = match open.holds {
            Holds::List(items) => Value::List(items.into()),
            Holds::Map(entries, _) => Value::Map(entries.into()),
        };
        let Open {
            line,
            column,
            anchor,
            weight,
            ..
        } = open;
        self.finish(
            Node {
                line,
                column,
                value,
                quoted: false,
                weight,
            },
            anchor,
            false,
        )
    }

    fn finish(
        &mut self,
        node: Node,
        anchor: usize,
        ignored: bool,
    ) -> Result<Option<Rc<Node>>, Refusal> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(too_many());
        }
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.put(node, ignored)
    }

    /// Puts a value where it belongs: into the innermost open list or object, or at the root.
    fn put(&mut self, node: Rc<Node>, ignored: bool) -> Result<Option<Rc<Node>>, Refusal> {
        let Some(open) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        open.weight = open.weight.saturating_add(node.weight);
        if open.weight > MAX_VALUES {
            return Err(too_many());
        }
        match &mut open.holds {
            Holds::List(items) => items.push(node),
            Holds::Map(entries, key) => match key.take() {
                Some(key) if !key.ignored => entries.push((key.name, node)),
                Some(_) => {}
                None => {
                    let name = match &node.value {
                        Value::Scalar(text) | Value::Block(text) => &**text,
                        Value::Null => "",
                        Value::List(_) | Value::Map(_) => {
                            let line = node.line;
                            return Err(Refusal(format!("line {line}: a key that is no text")));
                        }
                    };
                    if entries.is_empty() {
                        (open.line, open.column) = (node.line, node.column);
                    }
                    let name = match self.names.get(name) {
                        Some(known) => Rc::clone(known),
                        None => {
                            let name: Rc<str> = name.into();
                            self.names.insert(Rc::clone(&name));
                            name
                        }
                    };
                    *key = Some(Key { name, ignored });
                }
            },
        }
        Ok(None)
    }
}

fn too_many() -> Refusal {
    Refusal(format!(
        "has more than {MAX_VALUES} values, aliases counted with what they stand for"
    ))
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

impl Node {
    /// The field of this name, which is in snake case; the last one if there are several.
    pub fn get(&self, name: &str) -> Option<&Node> {
        let (_, node) = self.entries().rev().find(|(key, _)| is_field(key, name))?;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// The entry of a map that the user named: the key is as it is.
    pub fn entry(&self, key: &str) -> Option<&Node> {
        let (_, node) = self.entries().rev().find(|(known, _)| *known == key)?;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// The field at the end of this way, like `common_tls_context.alpn_protocols`.
    pub fn at(&self, way: &str) -> Option<&Node> {
        way.split('.').try_fold(self, Node::get)
    }

    /// An object's fields; none of anything else.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (&str, &Node)> {
        let entries = match &self.value {
            Value::Map(entries) => &**entries,
            _ => &[],
        };
        entries.iter().map(|(key, node)| (&**key, &**node))
    }

    /// A list's values; none of anything else.
    pub fn items(&self) -> impl DoubleEndedIterator<Item = &Node> + ExactSizeIterator {
        let items = match &self.value {
            Value::List(items) => &**items,
            _ => &[],
        };
        items.iter().map(|node| &**node)
    }

    /// The values of the list at the end of this way.
    pub fn list<'t>(&'t self, way: &str) -> impl DoubleEndedIterator<Item = &'t Node> + use<'t> {
        self.at(way).into_iter().flat_map(|list| list.items())
    }

    /// A scalar's text.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) | Value::Block(text) => Some(text),
            _ => None,
        }
    }

    /// The text at the end of this way.
    pub fn str(&self, way: &str) -> Option<&str> {
        self.at(way)?.text()
    }

    /// Whether `true` is at the end of this way.
    pub fn is_true(&self, way: &str) -> bool {
        self.str(way)
            .is_some_and(|text| matches!(text, "true" | "True" | "TRUE" | "yes" | "on" | "y"))
    }

    /// The number at the end of this way: `2`, `{value: 2}`, or `{}` for 0.
    pub fn number(&self, way: &str) -> Option<f64> {
        let node = self.at(way)?;
        match &node.value {
            Value::Map(_) => match node.get("value") {
                Some(value) => value.text()?.parse().ok(),
                None => Some(0.0),
            },
            _ => node.text()?.parse().ok(),
        }
    }

    /// The duration at the end of this way, like `0.5s`, in seconds.
    pub fn seconds(&self, way: &str) -> Option<f64> {
        let seconds: f64 = self.str(way)?.strip_suffix('s')?.trim().parse().ok()?;
        seconds.is_finite().then_some(seconds)
    }

    /// Whether `@type` here or in `typed_config` ends in this, like `http.wasm.v3.Wasm`.
    pub fn is_a(&self, kind: &str) -> bool {
        let node = self.get("typed_config").unwrap_or(self);
        node.str("@type").is_some_and(|name| {
            name.strip_suffix(kind)
                .is_some_and(|before| before.ends_with(['.', '/']))
        })
    }

    /// The value as JSON, as Envoy makes it of YAML.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Block(text) => (&**text).into(),
            Value::Scalar(text) if self.quoted => (&**text).into(),
            Value::Scalar(text) => match serde_json::from_str::<serde_json::Value>(text) {
                Ok(value @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_))) => value,
                _ => (&**text).into(),
            },
            Value::List(items) => items.iter().map(|item| item.to_json()).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|(key, node)| (key.to_string(), node.to_json()))
                .collect(),
        }
    }

    /// Where a text stands in this scalar: the line of it in a block, else the scalar itself.
    pub fn line_of(&self, text: &str) -> (usize, usize) {
        if let Value::Block(block) = &self.value {
            let mut written = block.lines().skip_while(|line| line.trim().is_empty());
            if let Some(index) = written.position(|line| line.contains(text)) {
                return (self.line + index, 1);
            }
        }
        (self.line, self.column)
    }
}

/// Whether a key is this field's name, in snake case or in lower camel case.
fn is_field(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let mut upper = false;
    let camel = name.chars().filter_map(|char| {
        if char == '_' {
            upper = true;
            return None;
        }
        Some(if std::mem::take(&mut upper) {
            char.to_ascii_uppercase()
        } else {
            char
        })
    });
    key.chars().eq(camel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Rc<Node> {
        parse(text.as_bytes()).unwrap()
    }

    fn refused(text: &[u8], why: &str) {
        let refusal = parse(text).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal:?} does not say {why:?}");
        assert_eq!(refusal.lines().count(), 1);
    }

    #[test]
    fn lines_and_columns() {
        let tree = tree("a: 1\nb:\n  c: {d: x}\n  e:\n  - f: 2\n");
        let place = |way| tree.at(way).map(|node| (node.line, node.column));
        assert_eq!(place("a"), Some((1, 4)));
        assert_eq!(place("b"), Some((3, 3)), "of an object, the first key's");
        assert_eq!(place("b.c"), Some((3, 7)));
        assert_eq!(place("b.c.d"), Some((3, 10)));
        let item = tree.list("b.e").next().unwrap();
        assert_eq!((item.line, item.column), (5, 5));
    }

    #[test]
    fn what_envoy_takes() {
        let tree = tree(
            "!ignore x: &a {noTraffic: 1}\nhealthChecks: *a\ntwice: 1\ntwice: 2\nnothing: ~\n\
             text: |\n  one\n  two\nduration: 0.5s\nzero: {}\ntwo: {value: 2}\nlist: [1, 2]\n",
        );
        assert!(tree.get("x").is_none());
        assert_eq!(tree.str("health_checks.no_traffic"), Some("1"));
        assert_eq!(tree.get("health_checks").unwrap().line, 1, "the anchor's");
        assert_eq!(tree.number("twice"), Some(2.0));
        assert!(tree.get("nothing").is_none());
        assert_eq!(tree.get("text").unwrap().line_of("two"), (8, 1));
        for block in [
            "a: |\n\n  one\n",
            "a: |-\n  \n  one",
            "a: | # why\n\n\n\n  one\n",
        ] {
            let line = block.lines().position(|line| line.contains("one")).unwrap() + 1;
            let tree = parse(block.as_bytes()).unwrap();
            assert_eq!(tree.get("a").unwrap().line_of("one").0, line, "{block:?}");
        }
        assert_eq!(tree.seconds("duration"), Some(0.5));
        assert_eq!(tree.number("zero"), Some(0.0));
        assert_eq!(tree.number("two"), Some(2.0));
        assert_eq!(tree.list("list").count(), 2);
        assert_eq!(
            parse(b"{\"a\": \"\\u00e4\\/\"}").unwrap().str("a"),
            Some("ä/")
        );
    }

    #[test]
    fn hostile_texts_are_refused_in_a_line() {
        refused(b"", "is empty");
        refused(b"# nothing\n", "is empty");
        refused(b"\xff\xfe\x00", "is no text");
        refused(b"\x7fELF\x02\x01\x01\x00\x00", "is no YAML");
        refused(b"a: [", "is no YAML");
        refused(b"a: *b", "is no YAML");
        refused(b"a: &b [*b]", "an alias inside its own anchor");
        refused(b"? [a]\n: b", "a key that is no text");
        refused("[".repeat(100_000).as_bytes(), "recursion limit");
        refused("- ".repeat(101).as_bytes(), "nested deeper than 100 levels");
        let deep: String = (0..2000).map(|level| " ".repeat(level) + "a:\n").collect();
        refused(deep.as_bytes(), "nested deeper than 100 levels");
        let bomb: String = (1..40)
            .map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1))
            .collect();
        refused(
            format!("a0: &a0 [x]\n{bomb}").as_bytes(),
            "more than 3000000 values",
        );
        refused(&vec![b' '; MAX_BYTES + 1], "longer than 49 MB");
    }
}
