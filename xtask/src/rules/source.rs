//! Just enough of Rust's grammar to judge a source: words and signs outside comments, literals and tests.

use std::path::{Path, PathBuf};

/// One file.
pub struct Source {
    /// Relative to the workspace.
    pub path: PathBuf,
    /// Lines outside modules that exist in tests only.
    pub lines: usize,
    /// What stands outside comments, literals and such modules.
    pub tokens: Vec<Token>,
    /// `#[cfg(test)] mod name;`: where the modules lie, without the ending `.rs`.
    pub test_modules: Vec<PathBuf>,
}

/// A word, `::`, or any other sign by itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// Counted from 1.
    pub line: usize,
}

impl Source {
    /// Reads a file's text.
    pub fn parse(path: &Path, text: &str) -> Self {
        let mut lines = text.lines().count();
        let mut tokens = tokens(&without_comments_and_literals(text));
        let mut test_modules = Vec::new();
        while let Some(module) = TestModule::find(&tokens) {
            lines -= tokens[module.end].line + 1 - tokens[module.start].line;
            if tokens[module.end].text == ";" {
                test_modules.push(folder_of_modules(path).join(&module.name));
            }
            tokens.drain(module.start..=module.end);
        }
        Self { path: path.to_owned(), lines, tokens, test_modules }
    }
}

/// Where the modules lie that the file declares.
fn folder_of_modules(path: &Path) -> PathBuf {
    let roots = ["lib.rs", "main.rs", "mod.rs"];
    let is_root = path.file_name().is_some_and(|name| roots.iter().any(|root| name == *root));
    if is_root { path.with_file_name("") } else { path.with_extension("") }
}

/// The tokens from `#[cfg(test)]` to the end of the module that follows, both included.
struct TestModule {
    name: String,
    start: usize,
    end: usize,
}

impl TestModule {
    /// The first one, if any.
    fn find(tokens: &[Token]) -> Option<Self> {
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        (0..tokens.len()).find_map(|start| {
            let mut index = start;
            for text in attribute {
                index = expect(tokens, index, text)?;
            }
            while let Some(opened) = expect(tokens, index, "#") {
                index = closing(tokens, opened)? + 1;
            }
            if let Some(public) = expect(tokens, index, "pub") {
                let restricted = expect(tokens, public, "(").and_then(|_| closing(tokens, public));
                index = restricted.map_or(public, |end| end + 1);
            }
            index = expect(tokens, index, "mod")?;
            let name = tokens.get(index)?.text.clone();
            let end =
                expect(tokens, index + 1, ";").map(|_| index + 1).or_else(|| closing(tokens, index + 1))?;
            Some(Self { name, start, end })
        })
    }
}

/// The index after `index` if this text stands there.
fn expect(tokens: &[Token], index: usize, text: &str) -> Option<usize> {
    (tokens.get(index)?.text == text).then_some(index + 1)
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (number, mut rest) in code.lines().enumerate() {
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|next| !is_word(next)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (text, after) = rest.split_at(length);
            if !first.is_whitespace() {
                tokens.push(Token { text: text.into(), line: number + 1 });
            }
            rest = after;
        }
    }
    tokens
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The text with the same lines, in which comments, strings and characters are gone.
fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(is_word);
        let (length, kept) = match comment_or_literal(rest, after_word) {
            Some(length) => (length, None),
            None => (first.len_utf8(), Some(first)),
        };
        let (gone, after) = rest.split_at(length);
        match kept {
            Some(character) => code.push(character),
            None => {
                code.push(' ');
                code.extend(gone.chars().filter(|character| *character == '\n'));
            }
        }
        rest = after;
    }
    code
}

/// The length of the comment or literal with which the text starts, if it does.
fn comment_or_literal(text: &str, after_word: bool) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    if text.starts_with('"') {
        return Some(quoted(text, '"'));
    }
    if text.starts_with('\'') {
        // A character, or else a lifetime.
        let mut characters = text.chars().skip(1);
        let escaped = characters.next() == Some('\\');
        return (escaped || characters.next() == Some('\'')).then(|| quoted(text, '\''));
    }
    let raw =
        ["r", "br", "cr"].iter().find_map(|prefix| text.strip_prefix(prefix)).filter(|_| !after_word)?;
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let content = raw[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let content_length = content.find(&end).map_or(content.len(), |position| position + end.len());
    Some(text.len() - content.len() + content_length)
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut position = 0;
    while position < text.len() {
        let rest = &text.as_bytes()[position..];
        position += match rest {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        if depth == 0 {
            break;
        }
    }
    position
}

/// A literal between quotes, with escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (position, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return position + quote.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Source {
        Source::parse(Path::new("crates/protocol/src/close.rs"), text)
    }

    fn words(text: &str) -> String {
        let words: Vec<String> = parse(text).tokens.into_iter().map(|token| token.text).collect();
        words.join(" ")
    }

    #[test]
    fn comments_and_literals_are_no_words() {
        for (text, left) in [
            ("a // b\nc", "a c"),
            ("a /* b /* c */ d */ e", "a e"),
            ("a /* never closed", "a"),
            (r#"a("b \" c", d)"#, "a ( , d )"),
            (r##"a(r#"b " c"#, d)"##, "a ( , d )"),
            (r#"a(br"b\", d)"#, "a ( , d )"),
            (r#"a(b"c", d)"#, "a ( b , d )"),
            ("r#type var\"x\"", "r # type var"),
            (r"a('b', '\'', '\u{1F600}', '—', d)", "a ( , , , , d )"),
            ("fn a<'b>(c: &'b d)", "fn a < ' b > ( c : & ' b d )"),
            ("std::fs", "std :: fs"),
        ] {
            assert_eq!(words(text), left, "{text}");
        }
    }

    #[test]
    fn tokens_know_their_line() {
        let source = parse("/* one\ntwo */\n\"three\nfour\" five\n");
        assert_eq!(source.tokens, [Token { text: "five".into(), line: 4 }]);
        assert_eq!(source.lines, 4);
    }

    #[test]
    fn modules_of_tests_are_left_out() {
        let source = parse(
            "fn a() {}\n\
             #[cfg(test)]\n\
             #[allow(x)]\n\
             pub(crate) mod tests {\n\
                 fn b() { \"}\" }\n\
             }\n\
             fn c() {}\n\
             #[cfg(test)]\n\
             mod fixtures;\n\
             #[cfg(test)]\n\
             fn d() {}\n",
        );
        assert_eq!(source.lines, 4, "a, c, and d, which is no module");
        let functions: Vec<&str> = source.tokens.iter().map(|token| token.text.as_str()).collect();
        assert!(functions.contains(&"a") && functions.contains(&"c") && functions.contains(&"d"));
        assert!(!functions.contains(&"b") && !functions.contains(&"fixtures"));
        assert_eq!(source.test_modules, [Path::new("crates/protocol/src/close/fixtures")]);
        let root = Source::parse(Path::new("crates/protocol/src/lib.rs"), "#[cfg(test)] mod tests;");
        assert_eq!(root.test_modules, [Path::new("crates/protocol/src/tests")]);
    }
}
