//! Policy of the front door: whom it lets in by uid, and what they are given.
//!
//! There is no ambient authority, and a shell's command is given what this says. The default,
//! [`Policy::little`], lets the system's own user look names up and use servers; whoever runs a
//! system to work on it starts it with [`Policy::operator`]. Anything else is written down in TOML:
//!
//! ```toml
//! [[rule]]
//! who = "own"                 # "own", "others", a uid, or a list of these
//! give = { name = "srwmg", supervisor = "sr" }
//!
//! [[rule]]
//! who = [1001, 1002]
//! give.name = "sr"
//! quotas = { tasks = 20, bytes = 1_000_000_000 }   # of all their tasks together
//! ```
//!
//! The first rule for a uid counts. `give` says which of [`GIFTS`] they get, with which rights, as
//! letters (those of `rendez run --give`); nobody is given more than the supervisor can give.

use rendez::Rights;
use rendez::protocol::quota::{Allotment, Quota};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;

/// Rights of a client that do not depend on the server.
const CLIENT: Rights = Rights::SEND
    .union(Rights::MINT)
    .union(Rights::GRANT)
    .union(Rights::WATCH)
    .union(Rights::INSPECT);

/// What can be given at the front door: the name under which a task finds it, and the most rights.
pub const GIFTS: [(&str, Rights); 4] = [
    // The name server, to look names up with.
    ("name", CLIENT.union(Rights::READ).union(Rights::WRITE)),
    // The same, to register names with.
    ("register", CLIENT.union(Rights::READ).union(Rights::WRITE).union(Rights::REGISTER)),
    // The supervisor.
    ("supervisor", CLIENT.union(Rights::READ).union(Rights::MANAGE)),
    // The kernel's own task: to look at all others, and to put faults into them.
    ("kernel", Rights::INSPECT.union(Rights::INJECT)),
];

/// Whom the front door lets in. As TOML it is the table `rule`, an array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The rules, of which the first for a uid counts.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For whom.
    pub who: Spanned<OneOrMany>,
    /// What they are given: names of [`GIFTS`], and letters of rights.
    #[serde(default)]
    pub give: BTreeMap<Spanned<String>, Spanned<String>>,
    /// What all their tasks may have together, by quota; what is not named is the kernel's default.
    #[serde(default)]
    pub quotas: BTreeMap<Spanned<String>, u64>,
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One sort.
    One(Who),
    /// Any of these.
    Many(Vec<Who>),
}

impl OneOrMany {
    /// Each of them.
    #[must_use]
    pub fn all(&self) -> &[Who] {
        match self {
            Self::One(who) => core::slice::from_ref(who),
            Self::Many(all) => all,
        }
    }
}

/// Processes, by their effective uid.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Who {
    /// Of this uid.
    Uid(u32),
    /// `own`: of the system's own; `others`: of any that no rule before this one is for.
    Word(String),
}

/// Something in a policy that cannot be meant, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The bytes of the text that it is about.
    pub at: Range<usize>,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Mistake {
    /// The same for people: what, and in which line and column of `text`, counted from 1.
    #[must_use]
    pub fn in_text(&self, text: &str) -> String {
        let before = text.get(..self.at.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("line {line}, column {column}: {}", self.what)
    }
}

/// A rule as the front door is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The uid, `None` for all others.
    pub uid: Option<u32>,
    /// What is given: names of [`GIFTS`], and rights.
    pub give: Vec<(String, Rights)>,
    /// What is set aside for all tasks of that uid together.
    pub quotas: Vec<Allotment>,
}

impl Policy {
    /// The default: the system's own user may look names up, use servers, and see how they are.
    /// Nobody may register a name, manage a server, or look at tasks.
    #[must_use]
    pub fn little() -> Self {
        Self::built_in(&[("name", GIFTS[0].1), ("supervisor", CLIENT | Rights::READ)])
    }

    /// What whoever works on a system needs: its own user is given everything that there is to give,
    /// others nothing.
    #[must_use]
    pub fn operator() -> Self {
        Self::built_in(&GIFTS)
    }

    fn built_in(give: &[(&str, Rights)]) -> Self {
        let nowhere = |text: &str| Spanned::new(0..0, text.to_owned());
        let give = give
            .iter()
            .map(|(name, rights)| (nowhere(name), nowhere(&rights.to_letters())))
            .collect();
        let who = Spanned::new(0..0, OneOrMany::One(Who::Word("own".into())));
        Self { rules: vec![Rule { who, give, quotas: BTreeMap::new() }] }
    }

    /// The policy that `text` is, in TOML.
    ///
    /// # Errors
    /// The first [`Mistake`], of form or of meaning.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let policy: Self = toml::from_str(text).map_err(|error| Mistake {
            at: error.span().unwrap_or_default(),
            what: error.message().to_owned(),
        })?;
        policy.admissions(0).map(|_| policy)
    }

    /// The rules as the front door is told of them, `own` being the system's own uid.
    ///
    /// # Errors
    /// The first [`Mistake`].
    pub fn admissions(&self, own: u32) -> Result<Vec<Admission>, Mistake> {
        let mut all = Vec::new();
        for rule in &self.rules {
            let (give, quotas) = (rule.gifts()?, rule.allotments()?);
            for who in rule.who.get_ref().all() {
                let uid = match who {
                    Who::Uid(uid) => Some(*uid),
                    Who::Word(word) if word == "own" => Some(own),
                    Who::Word(word) if word == "others" => None,
                    Who::Word(word) => {
                        let what = format!(
                            "{word:?} is nobody; write \"own\", \"others\", a uid as a number, or a \
                             list of these"
                        );
                        return Err(Mistake { at: rule.who.span(), what });
                    }
                };
                all.push(Admission { uid, give: give.clone(), quotas: quotas.clone() });
            }
            if all.len() > rendez::protocol::limit::DOOR_RULES_MAX {
                let most = rendez::protocol::limit::DOOR_RULES_MAX;
                let what = format!("the front door has {most} rules at most, each uid being one");
                return Err(Mistake { at: rule.who.span(), what });
            }
        }
        Ok(all)
    }

    /// Whether anybody but the system's own user, `own`, is let in.
    #[must_use]
    pub fn admits_others(&self, own: u32) -> bool {
        self.admissions(own).is_ok_and(|all| all.iter().any(|rule| rule.uid != Some(own)))
    }
}

impl Rule {
    fn allotments(&self) -> Result<Vec<Allotment>, Mistake> {
        let allotment = |(name, amount): (&Spanned<String>, &u64)| {
            let known = Quota::SHARED.into_iter().find(|quota| quota.name() == name.get_ref());
            known.map(|quota| Allotment { quota, amount: *amount }).ok_or_else(|| Mistake {
                at: name.span(),
                what: format!(
                    "{:?} is no quota that is shared out; there are: {}",
                    name.get_ref(),
                    Quota::SHARED.map(Quota::name).join(", ")
                ),
            })
        };
        self.quotas.iter().map(allotment).collect()
    }

    fn gifts(&self) -> Result<Vec<(String, Rights)>, Mistake> {
        let mut gifts = Vec::new();
        for (name, letters) in &self.give {
            let Some((known, most)) = GIFTS.iter().find(|(known, _)| known == name.get_ref())
            else {
                let known: Vec<_> = GIFTS.iter().map(|(known, _)| *known).collect();
                let what = format!(
                    "there is no {:?} to give; there are: {}",
                    name.get_ref(),
                    known.join(", ")
                );
                return Err(Mistake { at: name.span(), what });
            };
            let mut rights =
                Rights::from_letters(letters.get_ref()).map_err(|unknown| Mistake {
                    at: letters.span(),
                    what: format!(
                        "no right has the letter {unknown:?}; `rendez run --help` lists them"
                    ),
                })?;
            if rights.intersects(Rights::SERVER_MASK) {
                rights |= Rights::SEND;
            }
            let more = rights - *most;
            if !more.is_empty() {
                let what = format!(
                    "{known} is never given with {}; the most is {:?}",
                    more.names(),
                    most.to_letters()
                );
                return Err(Mistake { at: letters.span(), what });
            }
            gifts.push((name.get_ref().clone(), rights));
        }
        Ok(gifts)
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, GIFTS, Policy};
    use rendez::Rights;
    use rendez::protocol::quota::{Allotment, Quota};

    fn mistake(text: &str) -> String {
        Policy::parse(text).expect_err(text).in_text(text)
    }

    #[test]
    fn the_built_in_policies() {
        let little = Policy::little();
        let [only] = &little.admissions(7).expect("sound")[..] else { panic!("{little:?}") };
        assert_eq!(only.uid, Some(7));
        let names: Vec<_> = only.give.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["name", "supervisor"]);
        let all = only.give.iter().fold(Rights::empty(), |all, (_, rights)| all | *rights);
        assert!(!all.intersects(Rights::MANAGE | Rights::REGISTER), "{all:?}");

        let operator = Policy::operator().admissions(7).expect("sound");
        let mut given = operator[0].give.clone();
        let mut known: Vec<_> =
            GIFTS.iter().map(|(name, rights)| ((*name).to_owned(), *rights)).collect();
        given.sort_by(|a, b| a.0.cmp(&b.0));
        known.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(given, known);
        assert!(!little.admits_others(7) && !Policy::operator().admits_others(7));
    }

    #[test]
    fn rules_by_uid() {
        let text = "
            [[rule]]
            who = [\"own\", 1001]
            give.name = \"r\"
            [[rule]]
            who = \"others\"
            quotas.tasks = 3
        ";
        let policy = Policy::parse(text).expect("a policy");
        let name = vec![("name".to_owned(), Rights::SEND | Rights::READ)];
        let of = |uid, give: &Vec<_>, quotas: Vec<Allotment>| Admission {
            uid,
            give: give.clone(),
            quotas,
        };
        let three = vec![Allotment { quota: Quota::Tasks, amount: 3 }];
        assert_eq!(
            policy.admissions(7),
            Ok(vec![
                of(Some(7), &name, vec![]),
                of(Some(1001), &name, vec![]),
                of(None, &vec![], three)
            ])
        );
        assert!(policy.admits_others(7));
        assert_eq!(Policy::parse("").expect("nobody").admissions(7), Ok(vec![]));
    }

    #[test]
    fn mistakes_say_where_they_are() {
        for (text, starts, contains) in [
            ("rule = 1", "line 1, column 8:", "invalid type"),
            ("[[rule]]\nwho = \"me\"", "line 2, column 7:", "\"own\""),
            ("[[rule]]\nwho = 1\ngive.names = \"r\"", "line 3, column 6:", "register"),
            ("[[rule]]\nwho = 1\n  give = { name = \"rq\" }", "line 3, column 19:", "'q'"),
            ("[[rule]]\nwho = 1\ngive.kernel = \"ix\"", "line 3, column 15:", "MANAGE"),
            ("[[rule]]\nwho = 1\nhow = 2", "line 3, column 1:", "how"),
            ("[[rule]]\nwho = -1", "line 2, column 7:", ""),
            ("[[rule]]\ngive.name = \"r\"", "line 1, column 1:", "who"),
            ("[[rule]]\nwho = 1\nquotas.tickets = 1", "line 3, column 8:", "endpoints"),
            ("[[rule]\n", "line 1,", ""),
        ] {
            let said = mistake(text);
            assert!(said.starts_with(starts) && said.contains(contains), "{text:?}: {said}");
        }
        let many = format!("[[rule]]\nwho = {:?}", (0..33).collect::<Vec<u32>>());
        assert!(mistake(&many).contains("32"), "{}", mistake(&many));
    }
}
