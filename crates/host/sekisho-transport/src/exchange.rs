//! One command with its whole response, whatever the transmission protocol does to it.

use crate::card::Card;
use crate::error::TransportError;

/// INS of GET RESPONSE (ISO/IEC 7816-4, 11.7.1).
const GET_RESPONSE: u8 = 0xC0;

/// Most response data that is put together: what extended length can ask for (ISO/IEC 7816-4, 5.2).
const RESPONSE_DATA_MAX: usize = 65_536;

/// A response, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Response data field.
    pub data: Vec<u8>,
    /// SW1SW2.
    pub sw: u16,
}

impl Response {
    /// True for SW 9000.
    pub const fn is_ok(&self) -> bool {
        self.sw == 0x9000
    }

    fn parse(rapdu: &[u8]) -> Result<Self, TransportError> {
        let (data, sw) = rapdu
            .split_last_chunk::<2>()
            .ok_or(TransportError::ShortResponse(rapdu.len()))?;
        Ok(Self {
            data: data.to_vec(),
            sw: u16::from_be_bytes(*sw),
        })
    }
}

/// Sends a command and collects its response: fetches what 61xx announces with GET RESPONSE, and repeats a command without data
/// once with the Le that 6Cxx names (ISO/IEC 7816-3, 12.2.1 and ISO/IEC 7816-4, 5.3.4).
///
/// # Errors
/// As of [`Card::transmit`]; [`TransportError::EndlessResponse`] when 61xx never ends.
pub fn exchange(card: &mut dyn Card, capdu: &[u8]) -> Result<Response, TransportError> {
    let first = card.transmit(capdu)?;
    collect(card, capdu, &first)
}

/// [`exchange`] for a command that has been sent before and brought no answer, or a wrong one; see [`Card::transmit_again`].
///
/// # Errors
/// As of [`exchange`].
pub fn exchange_again(card: &mut dyn Card, capdu: &[u8]) -> Result<Response, TransportError> {
    let first = card.transmit_again(capdu)?;
    collect(card, capdu, &first)
}

fn collect(card: &mut dyn Card, capdu: &[u8], first: &[u8]) -> Result<Response, TransportError> {
    let mut response = Response::parse(first)?;
    if let ([cla, ins, p1, p2, _], 0x6C) = (capdu, response.sw >> 8) {
        response = Response::parse(&card.transmit(&[*cla, *ins, *p1, *p2, low_byte(response.sw)])?)?;
    }
    while response.sw >> 8 == 0x61 {
        let cla = get_response_class(capdu.first().copied().unwrap_or_default());
        let more = Response::parse(&card.transmit(&[cla, GET_RESPONSE, 0, 0, low_byte(response.sw)])?)?;
        if response.data.len() + more.data.len() > RESPONSE_DATA_MAX
            || (more.data.is_empty() && more.sw >> 8 == 0x61)
        {
            return Err(TransportError::EndlessResponse);
        }
        response.data.extend_from_slice(&more.data);
        response.sw = more.sw;
    }
    Ok(response)
}

/// The interindustry class on the command's logical channel, without secure messaging or chaining (ISO/IEC 7816-4, 5.4.1): GET RESPONSE
/// belongs to the transmission, not to the application.
const fn get_response_class(cla: u8) -> u8 {
    if cla & 0x40 == 0 {
        cla & 0x03
    } else {
        0x40 | (cla & 0x0F)
    }
}

const fn low_byte(sw: u16) -> u8 {
    sw.to_be_bytes()[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::{InProcessCard, Request};

    fn answering(script: &[(&[u8], &[u8])]) -> impl Card {
        let mut script: Vec<(Vec<u8>, Vec<u8>)> = script
            .iter()
            .rev()
            .map(|(c, r)| (c.to_vec(), r.to_vec()))
            .collect();
        InProcessCard::new(move |request| {
            let Request::Command(capdu) = request else {
                panic!("reset")
            };
            let (expected, response) = script.pop().expect("a command too many");
            assert_eq!(capdu, expected);
            Ok(response)
        })
    }

    #[test]
    fn response_data_is_fetched_on_the_commands_logical_channel() {
        let mut card = answering(&[
            (&[0x85, 0xCA, 0, 0x66, 0], &[0x61, 0x02]),
            (&[0x01, 0xC0, 0, 0, 2], &[1, 2, 0x61, 0x00]),
            (&[0x01, 0xC0, 0, 0, 0], &[3, 0x90, 0x00]),
        ]);
        let response = exchange(&mut card, &[0x85, 0xCA, 0, 0x66, 0]).unwrap();
        assert_eq!(
            response,
            Response {
                data: vec![1, 2, 3],
                sw: 0x9000
            }
        );
    }

    #[test]
    fn only_a_command_without_data_is_repeated_with_the_right_le() {
        let mut card = answering(&[
            (&[0, 0xCA, 0, 0x66, 0], &[0x6C, 5]),
            (&[0, 0xCA, 0, 0x66, 5], &[1, 2, 3, 4, 5, 0x90, 0]),
        ]);
        assert_eq!(
            exchange(&mut card, &[0, 0xCA, 0, 0x66, 0]).unwrap().data,
            [1, 2, 3, 4, 5]
        );
        let mut card = answering(&[(&[0x84, 0x3C, 0, 0, 1, 7], &[0x6C, 5])]);
        assert_eq!(exchange(&mut card, &[0x84, 0x3C, 0, 0, 1, 7]).unwrap().sw, 0x6C05);
    }

    #[test]
    fn a_card_that_promises_for_ever_is_left() {
        let mut empty = InProcessCard::new(|_| Ok(vec![0x61, 0x10]));
        assert!(matches!(
            exchange(&mut empty, &[0, 1, 2, 3]),
            Err(TransportError::EndlessResponse)
        ));
        let mut full = InProcessCard::new(|_| Ok([[0; 256].as_slice(), &[0x61, 0x00]].concat()));
        assert!(matches!(
            exchange(&mut full, &[0, 1, 2, 3]),
            Err(TransportError::EndlessResponse)
        ));
    }

    #[test]
    fn get_response_leaves_class_features_behind() {
        for (cla, expected) in [
            (0x00, 0x00),
            (0x84, 0x00),
            (0x0E, 0x02),
            (0x93, 0x03),
            (0xC1, 0x41),
            (0x6F, 0x4F),
            (0xE0, 0x40),
        ] {
            assert_eq!(get_response_class(cla), expected, "{cla:02X}");
        }
    }

    #[test]
    fn a_response_without_status_word_is_an_error() {
        let mut card = InProcessCard::new(|_| Ok(vec![0x90]));
        assert!(matches!(
            exchange(&mut card, &[0, 1, 2, 3]),
            Err(TransportError::ShortResponse(1))
        ));
    }
}
