//! A URL as a QR code for a terminal.

use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

/// Lines of block characters, two modules high. Phones read dark on light: with `colour` that
/// is what they get on any terminal, without on a dark one. `None`: too long for a code.
pub(super) fn draw(url: &str, colour: bool) -> Option<String> {
    let code = QrCode::with_error_correction_level(url, EcLevel::L).ok()?;
    let mut renderer = code.render::<Dense1x2>();
    if !colour {
        return Some(renderer.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build());
    }
    let lines = renderer.build();
    let black_on_white = |line: &str| format!("\u{1b}[30;107m{line}\u{1b}[0m");
    Some(lines.lines().map(black_on_white).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://as.example/device?user_code=WDJB-MJHT";

    /// Each character is two modules, one above the other; `true` is drawn.
    fn modules(drawn: &str) -> Vec<Vec<bool>> {
        let halves = |line: &str, top: bool| {
            let filled = |char| matches!((char, top), ('█', _) | ('▀', true) | ('▄', false));
            line.chars().map(filled).collect::<Vec<bool>>()
        };
        drawn.lines().flat_map(|line| [halves(line, true), halves(line, false)]).collect()
    }

    #[test]
    fn every_module_is_drawn_and_the_border_is_light() {
        let code = QrCode::with_error_correction_level(URL, EcLevel::L).unwrap();
        let (width, quiet) = (code.width(), 4);
        let dark_on_light = draw(URL, true).unwrap();
        let plain = dark_on_light.replace("\u{1b}[30;107m", "").replace("\u{1b}[0m", "");
        assert!(dark_on_light.lines().all(|line| line.starts_with("\u{1b}[30;107m") && line.ends_with("\u{1b}[0m")));
        let (dark, inverted) = (modules(&plain), modules(&draw(URL, false).unwrap()));
        assert_eq!(dark[0].len(), width + 2 * quiet);
        let colors = code.to_colors();
        for row in 0..width + 2 * quiet {
            for column in 0..width + 2 * quiet {
                let inside = (quiet..width + quiet).contains(&row) && (quiet..width + quiet).contains(&column);
                let wanted = inside && colors[(row - quiet) * width + column - quiet] == qrcode::Color::Dark;
                assert_eq!(dark[row][column], wanted, "{row} {column}");
                assert_eq!(inverted[row][column], !wanted, "{row} {column}");
            }
        }
    }

    #[test]
    fn what_is_too_long_has_none() {
        assert!(draw(&"x".repeat(3000), true).is_none());
    }
}
