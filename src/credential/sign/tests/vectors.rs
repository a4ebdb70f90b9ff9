//! The examples of the RFCs whose signatures are the same each time.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{ED25519_JWK, P256_JWK, P521_JWK, RSA_JWK, THUMBPRINT_JWK, jws::verify, parse};
use crate::credential::sign::{Algorithm, Material, SigningKey};

const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn seal(key: &SigningKey, message: &str) -> String {
    key.seal(message.to_owned(), Zeroizing::new(b"left over".to_vec())).unwrap().expose().to_owned()
}

/// RFC 7515 §A.1. Its key isn't text, as client secrets are.
#[test]
fn hs256() {
    let secret = URL_SAFE_NO_PAD
        .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
        .unwrap();
    let material = Material::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)));
    let key = SigningKey { algorithm: Algorithm::Hs256, material, kid: None };
    let message = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}");
    assert_eq!(seal(&key, &message), format!("{message}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
}

/// RFC 7515 §A.2.
#[test]
fn rs256() {
    let message = format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}");
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5j\
                     ujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L0\
                     7Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUip\
                     UTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    assert_eq!(seal(&parse(RSA_JWK).unwrap(), &message), format!("{message}.{signature}"));
}

/// RFC 8037 §A.2 to §A.4.
#[test]
fn eddsa() {
    let key = parse(ED25519_JWK).unwrap();
    let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(seal(&key, message), format!("{message}.{signature}"));
    assert_eq!(
        key.public_jwk(),
        Some(r#"{"crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#)
    );
    assert_eq!(key.thumbprint(), Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"));
}

/// RFC 7638 §3.1.
#[test]
fn thumbprint() {
    let key = parse(THUMBPRINT_JWK).unwrap();
    assert_eq!(key.thumbprint(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
    assert_eq!(key.kid(), Some("2011-04-29"));
}

/// RFC 7515 §A.3, §A.4: these signatures differ each time, the keys are the same.
#[test]
fn ecdsa() {
    for (jwk, message) in [
        (P256_JWK, format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}")),
        (P521_JWK, "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA".to_owned()),
    ] {
        let key = parse(jwk).unwrap();
        let private: Value = serde_json::from_str(jwk).unwrap();
        let public: Value = serde_json::from_str(key.public_jwk().unwrap()).unwrap();
        assert_eq!(public["x"], private["x"]);
        assert_eq!(public["y"], private["y"]);
        assert!(verify(key.algorithm(), &seal(&key, &message), key.public_jwk()));
    }
}
