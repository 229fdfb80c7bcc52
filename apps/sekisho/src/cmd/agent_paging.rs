//! `sekisho agent --paging`: the agent hears by paging what there is to do.

use anyhow::{Context, Result};
use sekisho_device::paging::{Pager, Reason, SecApp, Step, UdpLink};
use sekisho_device::{Agent, AgentError, Backoff, DiskSpool, Facts, HttpsBackend, SharedCard, Turn};
use sekisho_paging::message::{Action, Message};
use sekisho_paging::recovery::REQUEST;
use sekisho_transport::Card;
use serde_json::json;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::agent::{self, Args, Progress};
use super::agent_beside::Beside;
use super::in_a_line;
use crate::files;

/// How often the agent looks around while it waits.
const LOOK: Duration = Duration::from_secs(60);
/// After an error of the SE.
const AFTER_ERROR: Duration = Duration::from_secs(5);

type PagedAgent = Agent<HttpsBackend, DiskSpool>;

struct Paged<'a> {
    args: &'a Args,
    agent: &'a mut PagedAgent,
    link: UdpLink,
    progress: Progress,
    beside: Beside,
}

/// Polls for ever, or until it has heard something once.
#[allow(clippy::disallowed_methods, reason = "this is the edge that waits")]
pub(super) fn run(args: &Args, agent: &mut PagedAgent) -> Result<ExitCode> {
    let progress = Progress::new();
    let mut paged = Paged {
        args,
        agent,
        link: UdpLink::new(args.paging.clone()).context("no socket for paging")?,
        beside: args.beside.beside(&progress, args.json)?,
        progress,
    };
    let timeout = Duration::from_secs(args.timeout);
    let mut pager = Pager::new();
    let mut card = SharedCard::new(args.card.open(timeout)?);
    paged.beside.start(&card);
    let started = Instant::now();
    let mut silence = Silence::default();
    loop {
        let asked = paged.link.server();
        match pager.turn(&mut card, &mut paged.link, started.elapsed()) {
            Ok(Step::Wait(_)) if args.once && !pager.is_out() => {
                paged.say("nothing", "nothing to do");
                return Ok(ExitCode::SUCCESS);
            }
            Ok(Step::Wait(wait)) => silence.wait(&paged, &mut pager, wait),
            Ok(Step::Silent) => {
                silence.goes_on(asked);
                if args.once && silence.polls >= paged.link.servers() && started.elapsed() >= timeout {
                    return Ok(paged.nobody_answers());
                }
            }
            Ok(Step::Act(message)) => {
                silence = Silence::default();
                if let Some(code) = paged.heard(&mut card, message)? {
                    return Ok(code);
                }
            }
            Ok(Step::Recover(request)) => {
                if paged.recover(&mut card, &request)? {
                    pager.poll_now(Reason::Recovered);
                }
            }
            Err(error) if args.once => return Err(error.into()),
            Err(error) => {
                paged
                    .progress
                    .say(&format!("{error}; again in {} s", AFTER_ERROR.as_secs()));
                agent::pause(AFTER_ERROR);
                // That it cannot be reached is said by the next turn.
                let _ = card.reset();
            }
        }
    }
}

/// What has not been answered since something was heard.
#[derive(Default)]
struct Silence {
    /// The server that was asked last, while that is not said.
    unsaid: Option<SocketAddr>,
    /// Polls.
    polls: usize,
    /// Since when an answer to the present poll is waited for.
    since: Option<Instant>,
}

impl Silence {
    /// No answer came in time from this server.
    const fn goes_on(&mut self, asked: Option<SocketAddr>) {
        self.unsaid = asked;
        self.since = None;
        self.polls += 1;
    }

    /// Waits for an answer, or for the next poll, and says what came of the last one.
    #[allow(clippy::disallowed_methods, reason = "this is the edge that waits")]
    fn wait(&mut self, paged: &Paged<'_>, pager: &mut Pager, wait: Duration) {
        if !pager.is_out() {
            *self = Self::default();
        }
        // One datagram may always be lost, and with --once it is said at the end.
        let is_told = self.polls > 1 && !paged.args.once;
        if let Some(server) = self.unsaid.take().filter(|_| is_told) {
            let again = format!("{}; again in {} s", no_answer(server), wait.as_secs());
            paged.say("no_answer", &again);
        }
        let mut wait = wait.min(LOOK);
        if paged.args.once {
            // Whatever SecApp says of its waits, which grow to an hour.
            let since = *self.since.get_or_insert_with(Instant::now);
            let timeout = Duration::from_secs(paged.args.timeout);
            wait = wait.min(timeout.saturating_sub(since.elapsed()));
            if wait.is_zero() {
                pager.give_up();
            }
        }
        paged.link.wait(wait);
    }
}

fn no_answer(server: SocketAddr) -> String {
    format!("no answer from the paging server {server}")
}

impl Paged<'_> {
    /// Ends `--once` where no server has answered: now is not the time.
    fn nobody_answers(&self) -> ExitCode {
        let words: Vec<_> = self.args.paging.iter().map(|server| no_answer(*server)).collect();
        let mut words = words.join(", ");
        if let Some(error) = self.link.failure() {
            words += &format!(" (no socket: {error})");
        }
        if self.args.json {
            let line = json!({ "result": "no_answer", "detail": words, "retry_after": agent::LATER });
            agent::print_line(&line.to_string());
        } else {
            self.progress.say(&words);
        }
        ExitCode::from(agent::TRY_AGAIN)
    }

    /// Acts on a message; the exit code where that is the end.
    fn heard(&mut self, card: &mut SharedCard, message: Message) -> Result<Option<ExitCode>> {
        let once = self.args.once;
        match self.act(card, message) {
            Ok(code) if once && message.action != Action::Nothing => {
                self.beside.wait();
                Ok(Some(code))
            }
            Ok(_) => Ok(None),
            Err(error) if once => {
                let failed = Err(error);
                if self.args.json {
                    agent::print_line(&agent::as_json(&failed).to_string());
                }
                agent::conclude(failed, self.args.json).map(Some)
            }
            // It is still to be acted on, and the server says it again.
            Err(error) => {
                let (words, seconds) = (in_a_line(&error), AFTER_ERROR.as_secs());
                self.progress.say(&format!("{words}; again in {seconds} s"));
                agent::pause(AFTER_ERROR);
                Ok(None)
            }
        }
    }

    /// Brings a recovery request to the server, and the grant to the SE: whether it has a new identity.
    fn recover(&self, card: &mut SharedCard, request: &[u8; REQUEST]) -> Result<bool> {
        let taken = match self.agent.backend().recover(request) {
            Ok(grant) => SecApp::select(card)?.grant(&grant)?,
            Err(error) => {
                self.progress.say(&format!("recovery: {error}"));
                false
            }
        };
        if taken {
            self.say("recovered", "a new identity has come over HTTPS");
        }
        Ok(taken)
    }

    /// Does what a verified message says, and tells SecApp when it is done. With `--once`, gives the exit code.
    fn act(&mut self, card: &mut SharedCard, message: Message) -> Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        match message.action {
            Action::Update(delay) | Action::OpenHttps(delay) => {
                self.say(
                    "message",
                    &format!("message {}: {}", message.order, words(message.action)),
                );
                agent::pause(Duration::from_secs(delay.into()));
                let is_asked = matches!(message.action, Action::OpenHttps(_));
                code = self.update(card, is_asked)?;
            }
            Action::GenerateKeys(1) => self.new_keys(card)?,
            Action::TransportIdentity(number) => {
                let there = usize::try_from(number).is_ok_and(|number| self.link.use_server(number));
                let what = if there {
                    "in use"
                } else {
                    "not configured: --paging names the servers, from 0 on"
                };
                self.say(
                    "transport_identity",
                    &format!("transport identity {number}: {what}"),
                );
            }
            action => self.say(
                "message",
                &format!("message {}: {}", message.order, words(action)),
            ),
        }
        SecApp::select(card)?.done(message.order)?;
        Ok(code)
    }

    /// The turns of the agent, until there is nothing left to do; each with a session of the SE beside it, if that is asked for too.
    fn update(&mut self, card: &mut SharedCard, with_session: bool) -> Result<ExitCode> {
        let mut backoff = Backoff::new();
        loop {
            let turn = self.turn(card, with_session);
            if self.args.json {
                agent::print_line(&agent::as_json(&turn).to_string());
            }
            if self.args.once {
                return agent::conclude(turn, self.args.json);
            }
            if let Ok(done @ (Turn::Nothing | Turn::Blocked(_))) = &turn {
                self.progress.say(&agent::describe(done));
                return Ok(ExitCode::SUCCESS);
            }
            if let Ok(Turn::Ended { verdict, .. }) = &turn
                && verdict.access != sekisho_link::Access::Retry
            {
                self.progress
                    .say(&agent::describe(turn.as_ref().unwrap_or(&Turn::Nothing)));
                return Ok(ExitCode::SUCCESS);
            }
            let (wait, words) = agent::next(&turn, &mut backoff)?;
            self.progress.say(&words);
            agent::pause(wait);
        }
    }

    fn turn(&mut self, card: &mut SharedCard, with_session: bool) -> Result<Turn> {
        let progress = &self.progress;
        let turn = self
            .beside
            .turn(self.agent, card, with_session, &mut |event| progress.show(&event));
        turn.map_err(anyhow::Error::new)
    }

    /// A key pair made in the SE, its public part certified; the certificate is kept beside the spool.
    fn new_keys(&mut self, card: &mut dyn Card) -> Result<()> {
        let se_id = Facts::read(card)?.se_id;
        let key = SecApp::select(card)?.new_key()?;
        let certified = self.agent.backend().certify(se_id, &key);
        let certified = certified.map_err(AgentError::Backend)?;
        let path = self.args.spool.join("certificate.der");
        files::write_public(&path, &certified.certificate)?;
        SecApp::select(card)?.certified(&certified.digest, &certified.proof)?;
        self.say(
            "new_keys",
            &format!("a new key pair in the SE; its certificate is {}", path.display()),
        );
        Ok(())
    }

    fn say(&self, result: &str, words: &str) {
        if self.args.json {
            agent::print_line(&json!({ "result": result, "detail": words }).to_string());
        } else {
            self.progress.say(words);
        }
    }
}

fn words(action: Action) -> String {
    match action {
        Action::Nothing => "nothing".to_owned(),
        Action::Update(delay) => format!("an update is available, in {delay} s"),
        Action::OpenHttps(delay) => format!("open HTTPS, in {delay} s"),
        Action::PollEvery(seconds) => format!("poll every {seconds} s"),
        Action::MoveTo(to) => format!("served by domain {} from now on", to.domain),
        other => format!("{other:?}, which this agent does not know"),
    }
}
