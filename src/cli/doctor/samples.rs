//! What the server is asked: the request of the migration guide, and passages of real length.

use serde_json::{Value, json};
use uuid::Uuid;

/// The query of the migration guide.
const QUERY: &str = "Comment résoudre erreur fusappel 6102?";

/// The answer that has to come first.
const ANSWER: &str = "Erreur fusappel 6102: vérifier configuration";

/// The other document of the guide.
const OTHER: &str = "Documentation fusappel";

/// Sentences that passages are made of, in French and English as in a user's own documents.
const SENTENCES: [&str; 12] = [
    "Le serveur enregistre chaque appel dans un journal que l'exploitant peut consulter pendant trente jours.",
    "Si la synchronisation de l'annuaire échoue, vérifiez d'abord les droits du compte de service et la date du dernier passage.",
    "Les sauvegardes sont faites chaque nuit à deux heures et copiées sur un second site avant six heures du matin.",
    "Un message d'erreur indique le numéro de la règle qui a refusé la demande et le nom du poste qui l'a envoyée.",
    "Pour relancer le service, ouvrez une session d'administration, arrêtez la file d'attente, puis démarrez-la de nouveau.",
    "La version installée est affichée au bas de la page d'accueil, à côté du nom de l'environnement.",
    "The scheduler retries a failed transfer three times, ten minutes apart, before it tells the person on duty.",
    "Each branch office has a gateway of its own, which keeps working when the line to the data centre is down.",
    "Licences are counted by named user; an account that has not signed in for ninety days no longer counts.",
    "Reports can be exported as a spreadsheet or printed, and the export keeps the filters of the screen.",
    "When the disk is nearly full the oldest attachments are moved to the archive, where they stay readable.",
    "The certificate of the internal portal is renewed by the operations team in the first week of March.",
];

/// Sentences of a passage: about 110 tokens.
const SENTENCES_OF_A_PASSAGE: usize = 4;

/// The request of the migration guide, as it is there.
pub(super) fn of_the_guide() -> Value {
    request(QUERY, [OTHER.to_owned(), ANSWER.to_owned()])
}

/// Whether a ranking of the guide's request begins with the right document.
pub(super) fn is_answer(first: &str) -> bool {
    first == ANSWER
}

/// Requests that no cache has seen.
pub(super) struct Samples {
    /// Tells the texts of this run from those of any other.
    run: Uuid,
}

impl Samples {
    pub(super) fn new() -> Self {
        Self {
            run: Uuid::new_v4(),
        }
    }

    /// So many passages of real length. Requests of other numbers have no pair in common.
    pub(super) fn long(&self, documents: usize, number: usize) -> Value {
        // Neither a cache of scores nor one of tokens has seen these.
        let own = format!("{:08x} {documents} {number}", self.run.as_fields().0);
        let passage = |document: usize| {
            let sentences = (0..SENTENCES_OF_A_PASSAGE).map(|place| {
                // Two numbers without a common divisor go through all combinations.
                SENTENCES[(document * 5 + place * 7 + number) % SENTENCES.len()]
            });
            let sentences: Vec<&str> = sentences.collect();
            format!("{own} {}. {}", document + 1, sentences.join(" "))
        };
        let query = format!("{QUERY} ({own})");
        request(&query, (0..documents).map(passage))
    }

    /// A few short documents.
    pub(super) fn short(&self, documents: usize, number: usize) -> Value {
        let query = format!("{} {number}", self.run.simple());
        let sentences = SENTENCES.iter().cycle().take(documents);
        request(&query, sentences.map(|&sentence| sentence.to_owned()))
    }
}

fn request(query: &str, documents: impl IntoIterator<Item = String>) -> Value {
    let document = |content: String| json!({"content": content, "metadata": {}});
    let documents: Vec<Value> = documents.into_iter().map(document).collect();
    json!({"query": query, "documents": documents})
}
