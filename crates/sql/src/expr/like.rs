//! LIKE: `%` stands for any text, `_` for any one character.

use crate::error::{Condition, Error, Result};

/// Whether all of `text` matches `pattern`, in which the character after
/// `escape` stands for itself.
pub fn matches(text: &str, pattern: &str, escape: Option<char>) -> Result<bool> {
    let mut text = text.chars();
    let mut rest = pattern.chars();
    // Where to go on when the present attempt fails: the pattern after the last
    // `%`, and the text from one character further on.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let mut ahead = rest.clone();
        let step = match ahead.next() {
            Some('%') if escape != Some('%') => {
                retry = Some((ahead.clone(), text.clone()));
                rest = ahead;
                continue;
            }
            Some(c) if escape == Some(c) => match ahead.next() {
                Some(literal) => text.clone().next() == Some(literal),
                // PostgreSQL looks at the pattern's end only while text is left.
                None if text.as_str().is_empty() => false,
                None => return Err(ends_with_escape()),
            },
            Some('_') => text.clone().next().is_some(),
            Some(literal) => text.clone().next() == Some(literal),
            None if text.as_str().is_empty() => return Ok(true),
            None => false,
        };
        if step {
            text.next();
            rest = ahead;
            continue;
        }
        let Some((pattern, from)) = &mut retry else { return Ok(false) };
        if from.next().is_none() {
            return Ok(false);
        }
        rest = pattern.clone();
        text = from.clone();
    }
}

fn ends_with_escape() -> Error {
    Error::new(Condition::InvalidEscapeSequence, "LIKE pattern must not end with escape character")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_postgresql() {
        for (text, pattern, expected) in [
            ("abc", "abc", true),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "_b_", true),
            ("abc", "_b", false),
            ("abc", "%b%", true),
            ("aXbXc", "a%b%c", true),
            ("aab", "%ab", true),
            ("", "%", true),
            ("", "_", false),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("größe", "gr__e", true),
            ("mississippi", "%iss%ip%i", true),
            ("mississippi", "%iss%iq%i", false),
        ] {
            assert_eq!(matches(text, pattern, Some('\\')).unwrap(), expected, "{text} LIKE {pattern}");
        }
        assert!(matches("a_c", "a#_c", Some('#')).unwrap());
        assert!(!matches("abc", "a#_c", Some('#')).unwrap());
        assert!(matches("a", "\\", Some('\\')).is_err());
        assert!(!matches("", "%\\", Some('\\')).unwrap());
        assert!(matches("\\", "\\", None).unwrap());
    }
}
