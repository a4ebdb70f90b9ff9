//! What is wrong with a key, and what to write instead. No variant holds a character of
//! what was read: it might be the key.

use aws_lc_rs::error::{KeyRejected, Unspecified};

use super::algorithm::{Algorithm, KeyKind};

/// Why there is no key or no signature. All but the last three are the operator's to put right.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key is empty")]
    Empty,
    #[error(
        "it is neither a PEM nor a JWK: write a private key that begins with `-----BEGIN PRIVATE KEY-----`, \
         or a private JWK (RFC 7517)"
    )]
    NotAKey,
    #[error("the PEM is damaged: copy it whole, from the line with BEGIN to the line with END")]
    Pem,
    #[error(
        "the key is encrypted with a passphrase: write it without one (`openssl pkey -in FILE -out NEW_FILE`) \
         and keep the file to yourself (mode 0600)"
    )]
    Encrypted,
    #[error("this is a public key, which can't sign: write the private key that belongs to it")]
    PublicKey,
    #[error("this is a certificate, which can't sign: write the private key that belongs to it")]
    Certificate,
    #[error("there are several private keys in it: write the one that signs")]
    SeveralKeys,
    #[error(
        "this is a key in OpenSSH's own format: write it as PKCS#8 \
         (`ssh-keygen -p -m PKCS8 -f FILE` rewrites an RSA or EC key, `openssl genpkey` makes a new one)"
    )]
    OpenSsh,
    #[error("this kind of key can't be used: write an RSA, P-256, P-384, P-521 or Ed25519 key")]
    UnsupportedKey,
    #[error(
        "this RSA key is for PSS only, by its own label: write an ordinary RSA key \
         (`openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072`) and set PS256"
    )]
    PssOnly,
    #[error(
        "the RSA key has {bits} bits, 2048 to 8192 can be used: make another one \
         (`openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072`)"
    )]
    RsaSize { bits: usize },
    #[error("the key is damaged, its parts don't belong together: copy it anew")]
    Rejected(#[source] KeyRejected),
    #[error("the key is damaged, it isn't the DER that its PEM label promises: copy it anew")]
    Der,
    #[error("the JWK isn't one JSON object whose members are strings without escapes (RFC 7517 §4)")]
    Json,
    #[error("the JWK has no `{0}`: write the whole private key (RFC 7518 §6, RFC 8037 §2)")]
    JwkMissing(&'static str),
    #[error("the JWK's `{0}` isn't a number of the right size in base64url without `=`")]
    JwkMember(&'static str),
    #[error("this is a JWK set: write one private key of it, without `keys` around it")]
    JwkSet,
    #[error(
        "this is a symmetric JWK (`oct`): a client secret signs as client_secret_jwt, a private key is wanted here"
    )]
    JwkSymmetric,
    #[error("the JWK says by `use`, `key_ops` or `alg` that it isn't for signing: write the key that is")]
    JwkPurpose,
    #[error("the JWK says it is for {key}, but {asked} is asked for: make them the same, or leave one of them out")]
    JwkAlgorithm { key: Algorithm, asked: Algorithm },
    #[error("this is a Google service account file: write what its `private_key` says, with real line breaks")]
    ServiceAccount,
    #[error(
        "this isn't an algorithm we sign with: write one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, \
         ES512, EdDSA, HS256, HS384, HS512"
    )]
    UnknownAlgorithm,
    #[error("{algorithm} doesn't go with {key}: write {}, or leave the algorithm out", .key.choices())]
    Mismatch { algorithm: Algorithm, key: KeyKind },
    #[error("{0} signs with a private key: with a secret write HS256, HS384 or HS512")]
    NeedsPrivateKey(Algorithm),
    /// RFC 7518 §3.2.
    #[error("the secret is too short for {algorithm}, which needs {needed} bytes: have a longer one made")]
    ShortSecret { algorithm: Algorithm, needed: usize },
    #[error("this isn't a PEM certificate: write one that begins with `-----BEGIN CERTIFICATE-----`")]
    NotACertificate,
    #[error("the certificate belongs to another private key")]
    OtherCertificate,
    #[error("a header can't have `{0}` set by hand, or twice")]
    ReservedHeader(String),
    /// A defect of the caller: claims that aren't a JSON object.
    #[error("the claims aren't a JSON object")]
    Claims,
    /// A defect of the caller: a secret has no public half and no form but itself.
    #[error("a secret has no public key")]
    Symmetric,
    /// Can't happen: base64url and dots.
    #[error("the signed JWT can't stand in a header field")]
    Field,
    #[error("the crypto library failed")]
    Crypto(#[source] Unspecified),
}
