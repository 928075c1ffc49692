//! Where the next page is: the header `Link` of RFC 8288.

use reqwest::header::{HeaderMap, LINK};
use url::Url;

use crate::Error;

/// The target of `rel="next"`, which must be of the same scheme, host and port as this page.
pub fn next(headers: &HeaderMap, page: &Url) -> Result<Option<Url>, Error> {
    let targets = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_target);
    let Some(target) = targets else { return Ok(None) };
    match page.join(target) {
        Ok(url) if url.origin() == page.origin() => Ok(Some(url)),
        Ok(url) => Err(Error::LinkElsewhere { to: url.origin().ascii_serialization() }),
        Err(_) => Err(Error::LinkElsewhere { to: "no URL".to_owned() }),
    }
}

/// `<…>; rel="next"` among links that are separated by commas, which targets and quoted texts may have, too.
fn next_target(value: &str) -> Option<&str> {
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let end = end_of_link(after);
        if after[..end].split(';').any(is_next) {
            return Some(target);
        }
        rest = &after[end..];
    }
    None
}

/// The first comma that is not quoted.
fn end_of_link(parameters: &str) -> usize {
    let mut is_quoted = false;
    let end = parameters.find(|c| {
        is_quoted ^= c == '"';
        c == ',' && !is_quoted
    });
    end.unwrap_or(parameters.len())
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let relations = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel")
        && relations.split_ascii_whitespace().any(|it| it.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(link: &str) -> Result<Option<String>, String> {
        let headers = HeaderMap::from_iter([(LINK, link.parse().unwrap())]);
        let page = Url::parse("https://example.com/users/changes?since=1").unwrap();
        next(&headers, &page).map(|url| url.map(String::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_next_page_is_found_among_others() {
        let expected = Ok(Some("https://example.com/users/changes?page=2".to_owned()));
        for link in [
            r#"<https://example.com/users/changes?page=2>; rel="next""#,
            "<?page=2>;rel=next",
            r#"</users/changes?page=1>; rel="prev", </users/changes?page=2>; title="a, b; rel=last"; rel="last NEXT""#,
        ] {
            assert_eq!(told(link), expected, "{link}");
        }
        for link in [
            "",
            "nonsense",
            "<?page=2>; rel=prev",
            "<?page=2",
            r#"<?page=2>; title="rel=next"#,
            "<?page=2>; rel=nextdoor",
        ] {
            assert_eq!(told(link), Ok(None), "{link}");
        }
    }

    #[test]
    fn another_host_scheme_or_port_is_refused_by_its_origin_alone() {
        for (link, origin) in [
            ("<https://evil.example.org/?key=s3cret>; rel=next", "https://evil.example.org"),
            ("<http://example.com/>; rel=next", "http://example.com"),
            ("<https://example.com:444/>; rel=next", "https://example.com:444"),
            ("<//evil.example.org/>; rel=next", "https://evil.example.org"),
        ] {
            let error = told(link).unwrap_err();
            assert!(error.contains(&format!("{origin},")) && !error.contains("s3cret"), "{error}");
        }
    }
}
