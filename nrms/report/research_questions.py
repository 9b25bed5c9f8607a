"""Which of our questions are asked, and by which comparisons of two experiments? The answers are computed by planned_comparisons.py."""

FROZEN = "Can a frozen pre-trained model serve as a news encoder?"
TUNING = "What does fine-tuning add?"
IMAGES = "Do images add anything to text?"
IDS = "Can what an item shows take the place of its id?"
ADDED = "Do ids and content together do better than ids alone, and pictures beside text better than text alone?"
END_TO_END = "What does training the encoders end to end add to frozen vectors?"
ORDER = "Which user encoder reads a sequence best?"
INTERESTS = "What does reading clusters of content, and scoring each modality, add to a sequence of ids?"
BASELINE = "best baseline"

HEADLINES = 3  # comparisons of a question, its first ones, by which it is answered; all others are explored

# question: experiment, what it is compared with, what differs. `a + b`: the ensemble of these experiments, whatever its run folder is called
Planned = dict[str, list[tuple[str, str, str]]]
NEWS: Planned = {
    FROZEN: [
        ("exp1", BASELINE, "BLIP reading title and picture together"),
        ("exp2", BASELINE, "BERT and ViT multiplied, blank picture where there is none"),
        ("text_frozen", BASELINE, "BERT, titles alone"),
        ("exp1_gate", BASELINE, "BLIP's two projected vectors, gated"),
        ("exp2_gate", BASELINE, "BERT and ViT, gated"),
        ("exp1", "exp2_gate", "pre-trained together instead of apart"),
        ("exp2_gate", "exp2", "a missing picture does no harm"),
        ("exp2_pointwise", "exp2", "the original's ranker, its masks put in"),
        ("exp2_pointwise_unmasked", "exp2", "the original's ranker as it was"),
    ],
    TUNING: [
        ("exp4", "text_frozen", "titles alone"),
        ("exp3", "exp2", "as the original has it"),
        ("exp3_gate", "exp2_gate", "gated"),
        ("exp3_lora", "exp2_gate", "low-rank updates only"),
        ("exp3_side", "exp2_gate", "side networks only"),
        ("exp3_side", "exp3_gate", "side networks instead of full tuning"),
    ],
    IMAGES: [
        ("exp3", "exp4", "as the original has it: product, blank picture"),
        ("exp3_gate", "exp4", "gated"),
        ("exp3_gate", "shuffled_images", "pictures in their places against changed places"),
        ("exp3_late", "exp4", "scores blended"),
        ("exp2_gate", "text_frozen", "frozen, gated"),
        ("shuffled_images", "exp4", "control: pictures that changed places"),
        ("image_only", "random", "pictures alone"),
    ],
}


CATALOGUE: Planned = {
    IDS: [
        ("morec_ts_sasrec", "idrec_sasrec", "frozen text for ids"),
        ("morec_e2e_sasrec", "idrec_sasrec", "tuned text for ids"),
        ("morec_ts_image", "idrec_sasrec", "frozen pictures for ids"),
        ("morec_ts_both", "idrec_sasrec", "frozen text and pictures for ids"),
        ("morec_ts_dssm", "idrec_dssm", "frozen text for ids, DSSM"),
        ("morec_e2e_dssm", "idrec_dssm", "tuned text for ids, DSSM"),
        ("idrec_sasrec", BASELINE, "ids against what learns nothing"),
    ],
    ADDED: [
        ("idmo_text", "idrec_sasrec", "frozen text beside ids"),
        ("idmo_both", "idrec_sasrec", "frozen text and pictures beside ids"),
        ("morec_ts_both", "morec_ts_sasrec", "frozen pictures beside frozen text"),
        ("idmo_both", "idrec_sasrec + morec_ts_image + morec_ts_sasrec", "learned together, against the mean of the three apart"),
    ],
    END_TO_END: [
        ("morec_e2e_sasrec", "morec_ts_sasrec", "text, SASRec"),
        ("morec_e2e_dssm", "morec_ts_dssm", "text, DSSM"),
        ("morec_ts_mlp", "morec_ts_sasrec", "two hidden layers above frozen text instead"),
    ],
    ORDER: [
        ("idrec_bert4rec", "idrec_sasrec", "ids"),
        ("idrec_gru4rec", "idrec_sasrec", "ids"),
        ("idrec_nextitnet", "idrec_sasrec", "ids"),
        ("idrec_dssm", "idrec_sasrec", "ids, order not read"),
        ("morec_ts_bert4rec", "morec_ts_sasrec", "frozen text"),
        ("morec_ts_gru4rec", "morec_ts_sasrec", "frozen text"),
        ("morec_ts_nextitnet", "morec_ts_sasrec", "frozen text"),
        ("idrec_sasrec_bce", "idrec_sasrec", "ids, the loss of the papers: one drawn item"),
        ("morec_ts_sasrec_bce", "idrec_sasrec_bce", "frozen text for ids, under that loss"),
    ],
    INTERESTS: [
        ("missrec", "idrec_sasrec", "MISSRec without ids for ids"),
        ("missrec", "morec_ts_both", "MISSRec for SASRec, frozen text and pictures"),
        ("missrec_id", "idrec_sasrec", "MISSRec with ids for ids alone"),
        ("missrec_id", "missrec", "ids added"),
        ("missrec_finetune", "missrec", "pre-trained, then adapters, one LayerNorm and the blend alone, against all from nothing"),
        ("missrec_finetune_id", "missrec_id", "the same with ids"),
        ("missrec", "missrec_no_interests", "clusters, against none"),
        ("missrec", "missrec_tenth_interests", "one cluster for two vectors, against one for ten"),
        ("missrec", "missrec_few_interests", "one cluster for two vectors, against one for fifty"),
        ("missrec", "missrec_dpc", "clusters by k-means, against DPC-KNN"),
        ("missrec", "missrec_overlap", "a short mean interest, against interests kept apart"),
        ("missrec", "missrec_mean_blend", "a learned blend, against the mean"),
        ("missrec", "missrec_tokens", "modalities of a history's item summed, against a token each"),
        ("missrec", "missrec_no_image", "pictures beside text"),
        ("missrec", "missrec_no_text", "text beside pictures"),
    ],
}
SETS: Planned = {
    "What does content add to a graph of who took what?": [
        ("lightgcn", BASELINE, "a graph with ids alone"),
        ("freedom", "lightgcn", "a frozen item graph, thinned edges"),
        ("alignrec", "lightgcn", "gated ids over an item graph, aligned"),
        ("vbpr", "lightgcn", "content beside ids, no graph"),
        ("bm3", "lightgcn", "views, no negatives"),
        ("alignrec", "freedom", "gates and alignments against a thinned graph"),
        ("alignrec_joint", "alignrec", "one encoder of text and picture, against two"),
        ("alignrec_cca", "alignrec_unaligned", "branches aligned (CCA), against no alignment"),
        ("alignrec_cca_uia", "alignrec_cca", "users and items aligned (UIA) too"),
        ("alignrec", "alignrec_cca_uia", "cosines held to those of content too"),
        ("alignrec_learns", "alignrec", "vectors of content as weights, against frozen ones"),
        ("freedom_learns", "freedom", "the same"),
    ],
    "Ids, text, pictures: which does a graph need?": [
        ("lightgcn_text", "lightgcn", "frozen text for ids"),
        ("lightgcn_image", "lightgcn", "frozen pictures for ids"),
        ("lightgcn_both", "lightgcn", "frozen text and pictures for ids"),
        ("lightgcn_all", "lightgcn", "frozen text and pictures beside ids"),
        ("lightgcn_all", "lightgcn + lightgcn_image + lightgcn_text", "learned together, against the mean of the three apart"),
    ],
}
QUESTIONS = {"impressions": NEWS, "catalogue": CATALOGUE, "sets": SETS}  # by protocol: what is shown, answered or not
ASKED_TOO = {"impressions": {}, "catalogue": SETS, "sets": CATALOGUE}  # shown where it is answered: any system can run on any log
COUNTED = {  # an answer counts the headlines of its question of which this is true, by default FIRST_IS_BETTER
    FROZEN: "frozen encoders beat the best baseline",
    TUNING: "tuned encoders are better than the same ones frozen",
    IMAGES: "comparisons find pictures a gain",
    IDS: "ways of content in the place of ids are better than ids",
    ADDED: "additions are better than what they stand against",
    END_TO_END: "trained or deepened encoders are better than plain frozen vectors",
    ORDER: "other user encoders are better",
}
FIRST_IS_BETTER = "comparisons find what stands first better"
