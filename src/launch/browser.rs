//! A page for a human: which program shows it, and how it is started. No shell is asked, so
//! nothing in a URL is ever a command; and no secret of ours goes along.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use super::Inherited;

/// Opens `url` with the first program that can be started, and says which. `None`: there is no
/// browser here, or none that a human would see.
pub fn open(url: &str, inherited: &Inherited, secret_variables: &[String]) -> Option<OsString> {
    programs(url, inherited).into_iter().find_map(|words| {
        let (program, arguments) = words.split_first()?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        command.envs(inherited.0.iter().filter(|(name, _)| !is_secret(name, secret_variables)));
        // Of its own group: Ctrl-C ends the login, not the browser.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().is_ok().then(|| program.clone())
    })
}

fn is_secret(name: &OsStr, secret_variables: &[String]) -> bool {
    secret_variables.iter().any(|secret| name == secret.as_str())
}

/// Command lines, best first.
fn programs(url: &str, inherited: &Inherited) -> Vec<Vec<OsString>> {
    let plain = |program: &str| vec![program.into(), url.into()];
    let mut programs = chosen(url, inherited);
    if cfg!(target_os = "macos") {
        programs.push(plain("open"));
        return programs;
    }
    if inherited.value("WSL_DISTRO_NAME").is_some() || inherited.value("WSL_INTEROP").is_some() {
        programs.push(plain("wslview"));
    }
    // Without a display it would start one in the terminal, or wait for nobody.
    if inherited.value("DISPLAY").is_some() || inherited.value("WAYLAND_DISPLAY").is_some() {
        programs.push(plain("xdg-open"));
    }
    programs
}

/// `$BROWSER`: programs, separated by `:`, with `%s` where the URL goes, else at the end.
fn chosen(url: &str, inherited: &Inherited) -> Vec<Vec<OsString>> {
    let Some(browser) = inherited.value("BROWSER").and_then(OsStr::to_str) else { return Vec::new() };
    let filled = |entry: &str| {
        let mut words: Vec<OsString> = entry.split_whitespace().map(|word| word.replace("%s", url).into()).collect();
        if !entry.contains("%s") && !words.is_empty() {
            words.push(url.into());
        }
        words
    };
    browser.split(':').map(filled).filter(|words| !words.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://as.example/authorize?a=1&b=$(touch x);c";

    fn lines(variables: &[(&str, &str)]) -> Vec<Vec<OsString>> {
        programs(URL, &Inherited::new(variables.iter().map(|(name, value)| (name.into(), value.into()))))
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_browser_that_there_is() {
        assert_eq!(lines(&[]), Vec::<Vec<OsString>>::new(), "nobody would see it");
        assert_eq!(lines(&[("DISPLAY", "")]), Vec::<Vec<OsString>>::new());
        assert_eq!(lines(&[("DISPLAY", ":0")]), [["xdg-open", URL]]);
        assert_eq!(lines(&[("WAYLAND_DISPLAY", "w"), ("BROWSER", "firefox")]), [["firefox", URL], ["xdg-open", URL]]);
        assert_eq!(lines(&[("WSL_DISTRO_NAME", "Debian")]), [["wslview", URL]]);
        let written = "w3m:firefox --private %s:chrome --app=%s: :";
        let app = format!("--app={URL}");
        let wanted: [&[&str]; 3] = [&["w3m", URL], &["firefox", "--private", URL], &["chrome", &app]];
        assert_eq!(lines(&[("BROWSER", written)]), wanted);
    }

    #[test]
    fn no_shell_and_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seen");
        let browser = directory.path().join("browser");
        let script =
            format!("#!/bin/sh\n{{ printf '%s\\n' \"$@\"; env; }} > {0}.part && mv {0}.part {0}\n", path.display());
        std::fs::write(&browser, script).unwrap();
        std::fs::set_permissions(&browser, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let browser = format!("/nonexistent/browser:{}", browser.display());
        let variables =
            [("BROWSER", browser.as_str()), ("PATH", "/usr/bin:/bin"), ("SECRET", "hunter2"), ("LANG", "C")];
        let inherited = Inherited::new(variables.map(|(name, value)| (name.into(), value.into())));
        let opened = open(URL, &inherited, &["SECRET".to_owned()]).unwrap();
        assert!(opened.to_str().unwrap().ends_with("/browser"), "{opened:?}");
        let seen = std::iter::repeat_with(|| std::fs::read_to_string(&path)).find_map(Result::ok).unwrap();
        assert!(seen.starts_with(&format!("{URL}\n")), "{seen}");
        assert!(seen.contains("LANG=C") && !seen.contains("hunter2"), "{seen}");
        assert!(!directory.path().join("x").exists());
    }
}
