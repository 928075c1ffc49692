//! Where URLs lead: to the next page by the header `Link` of RFC 8288, and out of this machine; and how they are stored.

use config::is_this_machine;
use reqwest::header::{HeaderMap, LINK};
use url::Url;

use crate::Error;

/// What servers take of a URL at the least. All that were read in a round are remembered, too.
pub(crate) const URL_BYTES: usize = 4096;
/// In a stored URL, before the number of a part of the origin's own query.
const OWN: char = '$';

/// The target of `rel="next"`, which must be of the same scheme, host and port as this page.
pub fn next(headers: &HeaderMap, page: &Url) -> Result<Option<Url>, Error> {
    let targets = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_target);
    targets.map(|target| follow(target, page)).transpose()
}

/// Where this leads from a page: to the same scheme, host and port, or it is not followed.
pub fn follow(target: &str, page: &Url) -> Result<Url, Error> {
    match page.join(target) {
        Ok(url) if url.as_str().len() > URL_BYTES => {
            Err(Error::LinkElsewhere { to: format!("a URL of more than {URL_BYTES} bytes") })
        }
        Ok(url) if url.origin() == page.origin() => Ok(url),
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

/// Whether what is sent there leaves this machine, and without TLS.
pub fn is_in_the_clear(url: &Url) -> bool {
    url.scheme() == "http" && !url.host_str().is_some_and(is_this_machine)
}

/// The page's URL without what its query has from the origin's own, which may be secret: that is written as its number.
pub fn to_store(page: &Url, origin: &Url) -> String {
    let own: Vec<String> = parts(origin).map(decoded).collect();
    let mut stored = page.clone();
    let query: Vec<String> = parts(page)
        .map(|part| match own.iter().position(|known| *known == decoded(part)) {
            Some(number) => format!("{OWN}{number}"),
            None => part.to_owned(),
        })
        .collect();
    stored.set_query(page.query().map(|_| query.join("&")).as_deref());
    stored.into()
}

/// A URL that was stored, whole again.
pub fn stored(text: &str, origin: &Url) -> Option<Url> {
    let own: Vec<&str> = parts(origin).collect();
    let mut page = Url::parse(text).ok()?;
    let whole = |part: &str| {
        let number: Option<usize> = part.strip_prefix(OWN).and_then(|number| number.parse().ok());
        number.and_then(|number| own.get(number).copied()).unwrap_or(part).to_owned()
    };
    let query = page.query().map(|_| parts(&page).map(whole).collect::<Vec<_>>().join("&"));
    page.set_query(query.as_deref());
    Some(page)
}

fn parts(url: &Url) -> impl Iterator<Item = &str> {
    url.query().unwrap_or_default().split('&')
}

/// A server may write a part in another way than it was asked with.
fn decoded(part: &str) -> String {
    url::form_urlencoded::parse(part.as_bytes()).map(|(name, value)| format!("{name}={value}")).collect()
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
        let long = format!("<?cursor={}>; rel=next", "x".repeat(5000));
        assert!(told(&long).unwrap_err().contains("a URL of more than 4096 bytes,"));
    }

    #[test]
    fn a_url_is_stored_without_the_query_of_the_origin_and_is_whole_again() {
        let origin = Url::parse("https://example.com/changes?key=s3cret!&tenant=5&s3cret").unwrap();
        for (next, stored_as) in [
            ("https://example.com/changes?key=s3cret!&page=2&tenant=5", "https://example.com/changes?$0&page=2&$1"),
            ("https://example.com/changes?page=2", "https://example.com/changes?page=2"),
            (
                "https://example.com/changes?page=%32&tenant=6&s3cret",
                "https://example.com/changes?page=%32&tenant=6&$2",
            ),
            ("https://example.com/changes", "https://example.com/changes"),
            ("https://example.com/changes?$7&cursor=$0", "https://example.com/changes?$7&cursor=$0"),
        ] {
            let next = Url::parse(next).unwrap();
            assert_eq!(to_store(&next, &origin), stored_as);
            assert_eq!(stored(stored_as, &origin), Some(next));
        }
        // In the words of the origin's own query, whatever the server's were.
        let other_words = Url::parse("https://example.com/changes?key=%733cret%21&page=2").unwrap();
        let kept = to_store(&other_words, &origin);
        assert_eq!(kept, "https://example.com/changes?$0&page=2");
        assert_eq!(stored(&kept, &origin).unwrap().query(), Some("key=s3cret!&page=2"));
        let none = Url::parse("https://example.com/changes").unwrap();
        assert_eq!(to_store(&other_words, &none), other_words.as_str());
    }
}
