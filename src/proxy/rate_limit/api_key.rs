//! Where an API key stands in a request: headers, parameters of the query, cookies.
//!
//! It must not choose between two keys in one place: which of them the application believes can't be known, so that a client
//! who sends both could have the bucket of the one and the rights of the other.

use std::borrow::Cow;

use fusebox_policy::config::ApiKey;
use http::HeaderMap;
use http::header::{self, HeaderName};
use percent_encoding::percent_decode;

/// The value of a header that is there once and not empty.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.get_all(name).iter();
    let value = lines.next()?.as_bytes();
    (lines.next().is_none() && !value.is_empty()).then_some(value)
}

/// Where to look, in checked form: in this order, and the first place that has one counts.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    headers: Vec<HeaderName>,
    query_parameters: Vec<String>,
    cookies: Vec<String>,
}

impl Places {
    /// The places of `wanted`; the position of a header that has no possible name where there is one.
    pub(crate) fn parse(wanted: &ApiKey) -> Result<Self, usize> {
        let ApiKey { headers, query_parameters, cookies } = wanted;
        let name = |(index, name): (usize, &String)| HeaderName::try_from(name).map_err(|_| index);
        Ok(Self {
            headers: headers.iter().enumerate().map(name).collect::<Result<_, _>>()?,
            query_parameters: query_parameters.clone(),
            cookies: cookies.clone(),
        })
    }

    /// The key; none where there is none, or two stand in one place.
    pub(crate) fn find<'a>(&self, headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, [u8]>> {
        let Self { headers: names, query_parameters, cookies } = self;
        if let Some(name) = names.iter().find(|name| headers.contains_key(*name)) {
            return header(headers, name).map(Cow::Borrowed);
        }
        for name in query_parameters {
            if let Some(found) = only(parameters(query.unwrap_or_default(), name)) {
                return found;
            }
        }
        cookies.iter().find_map(|name| only(cookie_values(headers, name).map(Cow::Borrowed))).flatten()
    }
}

/// None where there is nothing, else the only value that is not empty.
fn only<'a>(mut values: impl Iterator<Item = Cow<'a, [u8]>>) -> Option<Option<Cow<'a, [u8]>>> {
    let first = values.next()?;
    Some((values.next().is_none() && !first.is_empty()).then_some(first))
}

/// The decoded values of a query's parameter, which is compared decoded too (`application/x-www-form-urlencoded`).
fn parameters<'a>(query: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.as_bytes().split(|byte| *byte == b'&').filter_map(move |pair| {
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let found = decode(&pair[..end]);
        (*found == *name.as_bytes()).then(|| decode(pair.get(end + 1..).unwrap_or_default()))
    })
}

fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

/// The values of a cookie over all `Cookie` lines, as they stand (RFC 6265 section 5.4).
fn cookie_values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs
        .map(<[u8]>::trim_ascii)
        .filter_map(move |pair| pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn places() -> Places {
        Places::parse(&ApiKey {
            headers: vec!["X-Api-Key".into(), "authorization".into()],
            query_parameters: vec!["key".into(), "api key".into()],
            cookies: vec!["session".into()],
        })
        .unwrap()
    }

    fn found(lines: &[(&'static str, &'static str)], query: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let key = places().find(&headers, Some(query)).map(Cow::into_owned);
        key.map(|key| String::from_utf8(key).unwrap())
    }

    #[test]
    fn the_first_place_that_has_a_key_counts() {
        let all = [("x-api-key", "a"), ("authorization", "b"), ("cookie", "session=d")];
        assert_eq!(found(&all, "key=c").unwrap(), "a");
        assert_eq!(found(&all[1..], "key=c").unwrap(), "b");
        assert_eq!(found(&all[2..], "key=c").unwrap(), "c");
        assert_eq!(found(&all[2..], "other=c").unwrap(), "d");
        assert_eq!(found(&[], ""), None);
    }

    #[test]
    fn parameters_are_decoded_in_name_and_value() {
        assert_eq!(found(&[], "a=b&k%65y=x%2Fy+z%zz&c").unwrap(), "x/y z%zz");
        assert_eq!(found(&[], "api+key=1").unwrap(), "1");
        assert_eq!(found(&[], "api%20key=1=2").unwrap(), "1=2");
    }

    #[test]
    fn cookies_are_found_in_every_line_and_by_their_whole_name() {
        let lines = [("cookie", "xsession=0; sessionx=1"), ("cookie", "a=b; session=ok ;c=d")];
        assert_eq!(found(&lines, "").unwrap(), "ok");
    }

    #[test]
    fn two_keys_in_one_place_are_none() {
        assert_eq!(found(&[("x-api-key", "a"), ("x-api-key", "b")], "key=c"), None);
        assert_eq!(found(&[], "key=a&k%65y=b"), None);
        assert_eq!(found(&[("cookie", "session=a; session=b")], ""), None);
    }

    #[test]
    fn an_empty_key_is_none_and_hides_the_next_place() {
        assert_eq!(found(&[("x-api-key", "")], "key=c"), None);
        assert_eq!(found(&[], "key"), None);
        assert_eq!(found(&[("cookie", "session=")], ""), None);
    }

    #[test]
    fn a_header_that_cannot_be_is_told_by_its_position() {
        let wanted = ApiKey { headers: vec!["a".into(), "b c".into()], query_parameters: vec![], cookies: vec![] };
        assert_eq!(Places::parse(&wanted).unwrap_err(), 1);
    }
}
