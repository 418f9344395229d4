"""What people type first: small expectations that need no data set.

Each check is (group, query, better, worse): `better` must score above each of `worse`;
in the groups "irrelevant-low" and "relevant-high" the passages must score
below LOW or above HIGH in absolute terms.
"""
LOW, HIGH = 0.1, 0.5
HI, PARIS = "hi", "Paris is the capital of France."
PANDA = "The giant panda is a bear species endemic to China."
FILES = "A tool to compress and decompress files"
OTHERS = ["A library to draw charts and diagrams", "A game where you drive a train", "Fonts for the Georgian script"]
AUTRES = ["Une bibliothèque pour dessiner des diagrammes", "Un jeu de conduite de trains", "Polices pour l'écriture géorgienne"]

ABOVE = [
    ("exact", "Comment résoudre erreur fusappel 6102?", "Erreur fusappel 6102: vérifier configuration", ["Documentation fusappel"]),
    ("exact", "Comment résoudre erreur fusappel 6102?", "Erreur fusappel 6102: vérifier configuration",
     ["Erreur fusappel 7340: relancer le service", "Erreur réseau 6102"]),
    ("exact", "what is a panda?", PANDA, [HI, PARIS]),
    ("exact", "What is the capital of France?", PARIS, [PANDA, HI, "Berlin is the capital of Germany."]),
    ("exact", "ERR-42 when starting the printer", "ERR-42: the printer is out of paper", ["ERR-17: the printer is out of ink"]),
    ("exact", "how do I set max_connections", "max_connections: the most clients served at once",
     ["min_workers: the fewest threads kept", "log_level: how much is written to the log"]),
    ("exact", "image viewer", "A fast image viewer for the desktop", OTHERS),
    ("exact", "lecteur de musique", "Un lecteur de musique simple et léger", AUTRES),
    ("exact", "web server", "A small and fast web server", ["A web browser", "A mail server", *OTHERS]),
    ("typo", "compres files", FILES, OTHERS),
    ("typo", "serveur wbe", "Un serveur web léger et rapide", ["Un serveur de jeux", *AUTRES]),
    ("typo", "imgae viewer", "A fast image viewer for the desktop", OTHERS),
    ("typo", "databse backup", "Tool to back up a database", OTHERS),
    ("typo", "lecteur de musqiue", "Un lecteur de musique simple et léger", AUTRES),
    ("typo", "what is a pnada?", PANDA, [HI, PARIS]),
    ("typo", "editeur de texte", "Un éditeur de texte pour programmeurs", AUTRES),
    ("paraphrase", "make a file smaller", FILES, OTHERS),
    ("paraphrase", "listen to songs", "A music player with playlists", OTHERS),
    ("paraphrase", "look at photos", "A fast image viewer for the desktop", OTHERS),
    ("paraphrase", "program for writing letters", "A word processor", OTHERS),
    ("paraphrase", "naviguer sur internet", "Un navigateur web complet", AUTRES),
    ("paraphrase", "écouter des chansons", "Un lecteur audio avec listes de lecture", AUTRES),
    ("paraphrase", "protect my computer from intruders", "A firewall and intrusion detection system", OTHERS),
    ("fr-en", "Comment compresser des fichiers ?", FILES, OTHERS),
    ("fr-en", "serveur web", "A small and fast web server", OTHERS),
    ("fr-en", "jeu d'échecs", "A chess game with a strong engine", ["A card game", *OTHERS]),
    ("fr-en", "bibliothèque pour lire des images", "Library for reading images", ["Library for playing sound", *OTHERS]),
    ("fr-en", "Comment envoyer un courriel ?", "A program to send mail from the command line", OTHERS),
    ("fr-en", "base de données", "A database management system", OTHERS),
    ("fr-en", "Quelle est la capitale de la France ?", PARIS, [PANDA, HI, "Berlin is the capital of Germany."]),
    ("fr-en", "police de caractères", "Fonts for printing and the screen", ["A game where you drive a train", FILES]),
]
ABSOLUTE = [
    ("irrelevant-low", "what is a panda?", HI),
    ("irrelevant-low", "what is a panda?", PARIS),
    ("irrelevant-low", "web server", "Fonts for the Georgian script"),
    ("irrelevant-low", "jeu d'échecs", "Une bibliothèque pour dessiner des diagrammes"),
    ("irrelevant-low", "Comment compresser des fichiers ?", "A game where you drive a train"),
    ("irrelevant-low", "How do I install a printer?", "I like apples."),
    ("irrelevant-low", "éditeur de texte", "Il fait beau."),
    ("irrelevant-low", "database backup", "The giant panda is a bear species endemic to China."),
    ("relevant-high", "what is a panda?", PANDA),
    ("relevant-high", "web server", "A small and fast web server"),
    ("relevant-high", "lecteur de musique", "Un lecteur de musique simple et léger"),
    ("relevant-high", "compress files", FILES),
    ("relevant-high", "Comment compresser des fichiers ?", FILES),
    ("relevant-high", "Comment résoudre erreur fusappel 6102?", "Erreur fusappel 6102: vérifier configuration"),
]


def run(score):
    """`score(query, passages)` gives probabilities; returns the report."""
    results = []
    for group, query, better, worse in ABOVE:
        best, *rest = score(query, [better, *worse])
        results.append({"group": group, "query": query, "passage": better, "score": round(best, 4),
                        "best_other": round(max(rest), 4), "passed": best > max(rest)})
    for group, query, passage in ABSOLUTE:
        value = score(query, [passage])[0]
        results.append({"group": group, "query": query, "passage": passage, "score": round(value, 4),
                        "passed": value < LOW if group == "irrelevant-low" else value > HIGH})
    groups = {}
    for r in results:
        g = groups.setdefault(r["group"], {"passed": 0, "of": 0})
        g["passed"] += r["passed"]
        g["of"] += 1
    return {"low": LOW, "high": HIGH, "groups": groups, "passed": sum(r["passed"] for r in results),
            "of": len(results), "results": results}
