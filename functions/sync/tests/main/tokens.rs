//! Who gets in.

use std::time::Duration;

use anyhow::Result;
use aws_lc_rs::hmac;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sluice_sync::{Patience, Refusal, Settings, Verifier};

use crate::issuer::{AUDIENCE, Issuer, Signer, base64url, now};
use crate::site::Site;

/// The issuer may be asked at once, and its keys are used for an hour.
const AT_ONCE: Patience =
    Patience { fresh: Duration::from_hours(1), pause: Duration::ZERO, answer: Duration::from_secs(30) };

fn verifier(issuer: &Issuer, patience: Patience) -> Result<Verifier> {
    let settings = Settings { issuer: issuer.url.clone(), audience: AUDIENCE.to_owned() };
    Ok(Verifier::new(settings, patience)?)
}

async fn refused(verifier: &Verifier, token: &str) -> String {
    match verifier.verify(token).await {
        Ok(_) => panic!("it is taken"),
        Err(Refusal::Token(reason)) => reason.to_owned(),
        Err(Refusal::NoKeys(reason)) => format!("no keys: {reason}"),
    }
}

#[tokio::test]
async fn a_token_of_each_algorithm_is_taken_with_all_that_it_claims() -> Result<()> {
    secrets::install_crypto_provider();
    for signer in [Signer::es256(), Signer::rs256(), Signer::ed_dsa()] {
        let issuer = Issuer::start(vec![Signer::es256().jwk("other"), signer.jwk("a key")]).await?;
        let verifier = verifier(&issuer, AT_ONCE)?;
        let claims =
            issuer.claims(json!({"sub": "ada", "aud": ["another", AUDIENCE], "nested": {"roles": ["ü", 1.5]}}));
        let token = signer.sign(&json!({"alg": signer.algorithm(), "kid": "a key"}), &claims);
        let taken: Value = serde_json::from_str(&verifier.verify(&token).await?.json)?;
        assert_eq!(taken, claims, "{}", signer.algorithm());
    }
    Ok(())
}

#[tokio::test]
async fn whatever_is_wrong_with_a_token_it_is_refused() -> Result<()> {
    secrets::install_crypto_provider();
    let (signer, rsa, stranger) = (Signer::es256(), Signer::rs256(), Signer::es256());
    let issuer = Issuer::start(vec![signer.jwk("ec"), rsa.jwk("rsa")]).await?;
    let verifier = verifier(&issuer, AT_ONCE)?;
    let header = json!({"alg": "ES256", "kid": "ec"});
    let good = signer.sign(&header, &issuer.claims(json!({})));
    verifier.verify(&good).await?;
    let signed = |claims: Value| signer.sign(&header, &issuer.claims(claims));
    for (claims, words) in [
        (json!({"exp": now() - 3600}), "has ended"),
        (json!({"exp": null}), "lacks"),
        (json!({"exp": "tomorrow"}), "lacks"),
        (json!({"nbf": now() + 3600}), "not valid yet"),
        (json!({"aud": "another"}), "another audience"),
        (json!({"aud": ["another", "one more"]}), "another audience"),
        (json!({"aud": null}), "lacks"),
        (json!({"aud": []}), "a"),
        (json!({"iss": "https://elsewhere.example.com"}), "another issuer"),
        (json!({"iss": format!("{}/", issuer.url)}), "another issuer"),
        (json!({"iss": null}), "lacks"),
    ] {
        let told = refused(&verifier, &signed(claims.clone())).await;
        assert!(told.contains(words), "{claims}: {told}");
    }

    let [head, body, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let part = |value: Value| base64url(value.to_string().as_bytes());
    let other = part(issuer.claims(json!({"sub": "eve"})));
    // What is known to everybody is no secret: by the public key, in each of its forms.
    let hs256 = |secret: &[u8]| {
        let message = format!("{}.{body}", part(json!({"alg": "HS256", "kid": "rsa"})));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", base64url(tag.as_ref()))
    };
    let jwk = rsa.jwk("rsa");
    for (token, what) in [
        (format!("{}.{body}.", part(json!({"alg": "none"}))), "none"),
        (format!("{}.{body}.", part(json!({"alg": "none", "kid": "ec"}))), "none, by a key"),
        (format!("{}.{body}.{signature}", part(json!({"alg": "none", "kid": "ec"}))), "none, with a signature"),
        (hs256(jwk["n"].as_str().unwrap().as_bytes()), "HS256 by the modulus"),
        (hs256(jwk.to_string().as_bytes()), "HS256 by the key"),
        (stranger.sign(&header, &issuer.claims(json!({}))), "another's key"),
        (
            stranger.sign(&json!({"alg": "ES256", "kid": "ec", "jwk": stranger.jwk("ec")}), &issuer.claims(json!({}))),
            "a key that it brings along",
        ),
        (
            stranger.sign(
                &json!({"alg": "ES256", "kid": "stranger", "jku": "https://eve.example.com/keys"}),
                &issuer.claims(json!({})),
            ),
            "a place of keys that it names",
        ),
        (signer.sign(&json!({"alg": "ES256", "kid": "rsa"}), &issuer.claims(json!({}))), "the name of another key"),
        (
            signer.sign(&json!({"alg": "RS256", "kid": "ec"}), &issuer.claims(json!({}))),
            "another algorithm than the key's",
        ),
        (rsa.sign(&json!({"alg": "RS512", "kid": "rsa"}), &issuer.claims(json!({}))), "one that is not taken"),
        (format!("{head}.{other}.{signature}"), "other claims"),
        (format!("{head}.{body}."), "no signature"),
        (format!("{head}.{body}"), "two parts"),
        (format!("{good}.x"), "four parts"),
        (String::new(), "nothing"),
        ("x".repeat(100_000), "too much"),
    ] {
        assert!(verifier.verify(&token).await.is_err(), "{what} is taken");
    }
    Ok(())
}

#[tokio::test]
async fn keys_that_are_no_keys_for_signatures_open_nothing_and_hide_no_others() -> Result<()> {
    secrets::install_crypto_provider();
    let (signer, unused) = (Signer::es256(), Signer::es256());
    let encrypting = {
        let mut jwk = unused.jwk("encrypting");
        jwk["use"] = json!("enc");
        jwk
    };
    let other = {
        let mut jwk = unused.jwk("other");
        jwk["alg"] = json!("ES384");
        jwk
    };
    let symmetric = json!({"kty": "oct", "kid": "symmetric", "k": base64url(b"secret")});
    let unknown = json!({"kty": "AKP", "kid": "unknown", "alg": "ML-DSA-44", "pub": "AAAA"});
    let keys = vec![json!("no key"), encrypting, other, symmetric, unknown, json!({"kty": "EC"}), signer.jwk("right")];
    let issuer = Issuer::start(keys).await?;
    let verifier = verifier(&issuer, AT_ONCE)?;
    let claims = issuer.claims(json!({}));
    verifier.verify(&signer.sign(&json!({"alg": "ES256", "kid": "right"}), &claims)).await?;
    // The only one of its algorithm needs no name.
    verifier.verify(&signer.sign(&json!({"alg": "ES256"}), &claims)).await?;
    for id in ["encrypting", "other"] {
        assert!(verifier.verify(&unused.sign(&json!({"alg": "ES256", "kid": id}), &claims)).await.is_err(), "{id}");
    }
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_is_found_and_strangers_do_not_keep_the_issuer_busy() -> Result<()> {
    secrets::install_crypto_provider();
    let (old, new) = (Signer::es256(), Signer::ed_dsa());
    let issuer = Issuer::start(vec![old.jwk("old")]).await?;
    let claims = issuer.claims(json!({}));
    let by = |signer: &Signer, id: &str| signer.sign(&json!({"alg": signer.algorithm(), "kid": id}), &claims);
    let quick = verifier(&issuer, AT_ONCE)?;
    quick.verify(&by(&old, "old")).await?;
    quick.verify(&by(&old, "old")).await?;
    assert_eq!(issuer.said().asked, 1, "they are kept");
    issuer.said().keys = vec![old.jwk("old"), new.jwk("new")];
    quick.verify(&by(&new, "new")).await?;
    assert_eq!(issuer.said().asked, 2);
    issuer.said().keys = vec![new.jwk("new")];
    assert!(quick.verify(&by(&new, "unknown")).await.is_err());
    assert!(quick.verify(&by(&old, "old")).await.is_err(), "it is no key of the issuer's any more");

    // At most once in a while, whatever tokens say.
    let slow = verifier(&issuer, Patience { pause: Duration::from_hours(1), ..AT_ONCE })?;
    let before = issuer.said().asked;
    slow.verify(&by(&new, "new")).await?;
    for n in 0..50 {
        assert!(slow.verify(&by(&new, &format!("unknown {n}"))).await.is_err());
    }
    assert_eq!(issuer.said().asked, before + 1);
    slow.verify(&by(&new, "new")).await?;
    Ok(())
}

#[tokio::test]
async fn while_the_issuer_is_away_its_keys_serve_on_and_without_any_nobody_gets_in() -> Result<()> {
    secrets::install_crypto_provider();
    let signer = Signer::es256();
    let issuer = Issuer::start(vec![signer.jwk("first")]).await?;
    let token = signer.sign(&json!({"alg": "ES256", "kid": "first"}), &issuer.claims(json!({})));
    // They are asked for anew each time.
    let stale = Patience { fresh: Duration::ZERO, ..AT_ONCE };
    let (known, unknown) = (verifier(&issuer, stale)?, verifier(&issuer, stale)?);
    known.verify(&token).await?;
    issuer.said().is_away = true;
    known.verify(&token).await?;
    assert!(refused(&unknown, &token).await.starts_with("no keys: "));
    issuer.said().is_away = false;
    unknown.verify(&token).await?;
    // One that says to be somebody else is not believed.
    let other = verifier(&issuer, stale)?;
    issuer.said().issuer = "https://elsewhere.example.com".to_owned();
    assert!(refused(&other, &token).await.contains("it calls itself"));
    Ok(())
}

#[tokio::test]
async fn nobody_is_answered_without_a_token() -> Result<()> {
    let site = Site::start().await?;
    let paths = ["", "?after=0", "/snapshot?stream=note&bucket=a", "/status?snapshot=1:1:", "?after=x", "/snapshot"];
    for path in paths {
        let url = format!("{}{path}", site.url);
        let token = site.token("ada");
        for header in ["", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "bearer a.b.c", &token] {
            let answer = site.http.get(&url).header("authorization", header).send().await?;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path} with {header}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        }
        assert_eq!(site.http.get(&url).send().await?.status(), StatusCode::UNAUTHORIZED, "{path}");
        let twice = site.http.get(&url).bearer_auth(&token).header("authorization", format!("Bearer {token}"));
        assert_eq!(twice.send().await?.status(), StatusCode::UNAUTHORIZED, "{path} with two");
    }
    Ok(())
}
