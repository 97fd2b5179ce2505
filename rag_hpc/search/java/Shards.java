package raghpc;

import java.io.ByteArrayOutputStream;
import java.io.Closeable;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.tokenattributes.CharTermAttribute;
import org.apache.lucene.analysis.tokenattributes.PositionIncrementAttribute;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.FieldInvertState;
import org.apache.lucene.index.Impact;
import org.apache.lucene.index.Impacts;
import org.apache.lucene.index.ImpactsEnum;
import org.apache.lucene.index.IndexReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.MultiReader;
import org.apache.lucene.index.NumericDocValues;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.ReaderUtil;
import org.apache.lucene.index.StoredFields;
import org.apache.lucene.index.Term;
import org.apache.lucene.index.TermState;
import org.apache.lucene.index.TermStates;
import org.apache.lucene.index.TermVectors;
import org.apache.lucene.index.Terms;
import org.apache.lucene.index.TermsEnum;
import org.apache.lucene.search.BooleanClause;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.BoostQuery;
import org.apache.lucene.search.CollectionStatistics;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.PhraseQuery;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreDoc;
import org.apache.lucene.search.ScoreMode;
import org.apache.lucene.search.Scorer;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.search.TermStatistics;
import org.apache.lucene.search.Weight;
import org.apache.lucene.search.similarities.BM25Similarity;
import org.apache.lucene.search.similarities.Similarity;
import org.apache.lucene.store.FSDirectory;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.LongHeap;

/**
 * The shards of one process as one reader, searched with the statistics of the whole collection. A call from Python
 * costs more than what it asks for, so every method takes and returns blocks of bytes, little-endian: numbers one after
 * the other, a text as its length in UTF-8 and that, rows of unequal length as all lengths and then all values.
 */
public final class Shards implements Closeable {
  private static final int WINDOW = 4096; // documents whose sums are held at a time
  private static final int FEW = 512; // postings that are read to bound them; of more, blocks have their bounds written
  private static final int SLOTS = 64; // postings that a thread keeps of a leaf
  private final String[] fields;
  private final int threads;
  private final IndexReader reader;
  private final List<LeafReaderContext> leaves;
  private final int[] sizes; // in documents, of each shard
  private final byte[][][] codes; // of documents' lengths, by field and leaf

  /** Open the folders in the order given; documents are numbered through them, fields as they are named here. */
  public Shards(List<String> folders, List<String> fields, int threads) throws IOException {
    this.fields = fields.toArray(new String[0]);
    this.threads = threads;
    IndexReader[] readers = new IndexReader[folders.size()];
    sizes = new int[readers.length];
    for (int i = 0; i < readers.length; i++) {
      readers[i] = DirectoryReader.open(FSDirectory.open(Paths.get(folders.get(i))));
      sizes[i] = readers[i].maxDoc();
    }
    reader = new MultiReader(readers);
    leaves = reader.leaves();
    codes = new byte[this.fields.length][leaves.size()][];
    for (int f = 0; f < codes.length; f++) {
      for (LeafReaderContext leaf : leaves) {
        codes[f][leaf.ord] = new byte[leaf.reader().maxDoc()];
        NumericDocValues norms = leaf.reader().getNormValues(this.fields[f]);
        while (norms != null && norms.nextDoc() != NumericDocValues.NO_MORE_DOCS) {
          codes[f][leaf.ord][norms.docID()] = (byte) norms.longValue();
        }
      }
    }
    IndexSearcher.setMaxClauseCount(1 << 20); // a long question is no error
  }

  @Override
  public void close() throws IOException {
    reader.close();
  }

  /** Return deleted documents, each field's documents with terms and terms in all, each shard's documents: int64. */
  public byte[] counts() throws IOException {
    ByteBuffer out = little(new byte[(1 + 2 * fields.length + sizes.length) * Long.BYTES]);
    out.putLong(reader.numDeletedDocs());
    for (String field : fields) {
      out.putLong(reader.getDocCount(field)).putLong(Math.max(0, reader.getSumTotalTermFreq(field)));
    }
    for (int size : sizes) {
      out.putLong(size);
    }
    return out.array();
  }

  /** Return the texts that the documents (int32) have stored under a name. */
  public byte[] stored(String name, byte[] documents) throws IOException {
    ByteBuffer in = little(documents);
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    StoredFields stored = reader.storedFields();
    while (in.hasRemaining()) {
      writeText(out, String.valueOf(stored.document(in.getInt(), Set.of(name)).get(name)));
    }
    return out.toByteArray();
  }

  /** Return the terms of each text: all numbers of terms, then all terms. A gap before one is so many empty terms. */
  public static byte[] analyzePhrases(Analyzer analyzer, byte[] texts) throws IOException {
    return analyze(analyzer, texts, true);
  }

  /** Return the terms of each text: all numbers of terms, then all terms. */
  public static byte[] analyze(Analyzer analyzer, byte[] texts) throws IOException {
    return analyze(analyzer, texts, false);
  }

  private static byte[] analyze(Analyzer analyzer, byte[] texts, boolean gaps) throws IOException {
    ByteBuffer in = little(texts);
    int[] sizes = new int[in.getInt()];
    ByteArrayOutputStream terms = new ByteArrayOutputStream();
    for (int i = 0; i < sizes.length; i++) {
      String text = new String(readText(in), StandardCharsets.UTF_8);
      try (TokenStream stream = analyzer.tokenStream(null, text)) {
        CharTermAttribute term = stream.addAttribute(CharTermAttribute.class);
        PositionIncrementAttribute step = stream.addAttribute(PositionIncrementAttribute.class);
        stream.reset();
        for (; stream.incrementToken(); sizes[i]++) {
          for (int gap = 1; gaps && gap < step.getPositionIncrement(); gap++, sizes[i]++) {
            writeText(terms, "");
          }
          writeText(terms, term.toString());
        }
        stream.end();
      }
    }
    ByteBuffer out = little(new byte[Integer.BYTES * sizes.length + terms.size()]);
    put(out, sizes);
    return out.put(terms.toByteArray()).array();
  }

  /** Return the terms of documents (int32) in the first field: all numbers of terms, frequencies, terms. */
  public byte[] vectors(byte[] documents) throws IOException {
    int[] docs = take(little(documents), documents.length / Integer.BYTES);
    int[] found = new int[docs.length];
    ByteArrayOutputStream freqs = new ByteArrayOutputStream();
    ByteArrayOutputStream texts = new ByteArrayOutputStream();
    TermVectors vectors = reader.termVectors();
    for (int i = 0; i < docs.length; i++) {
      Terms known = vectors.get(docs[i], fields[0]);
      TermsEnum cursor = known == null ? TermsEnum.EMPTY : known.iterator();
      for (BytesRef term = cursor.next(); term != null; term = cursor.next(), found[i]++) {
        freqs.writeBytes(little(new byte[Integer.BYTES]).putInt((int) cursor.totalTermFreq()).array());
        writeText(texts, term.utf8ToString());
      }
    }
    ByteBuffer out = little(new byte[Integer.BYTES * found.length + freqs.size() + texts.size()]);
    put(out, found);
    return out.put(freqs.toByteArray()).put(texts.toByteArray()).array();
  }

  /**
   * Return what queries over these distinct terms (their number, the field of each, then they) are asked with. One that
   * has a NUL in it is a phrase: words with NULs between them, nothing where any word may stand.
   */
  public Batch batch(byte[] terms) throws IOException {
    return new Batch(terms);
  }

  /** Terms and phrases, and where each stands in each leaf, looked up once for any number of queries. */
  public final class Batch {
    private final Term[] terms; // or phrases
    private final int[] fieldOf; // by term
    private final Query[] phrases; // by term; null of one that is none
    private final Occurrences[][] occurrences; // by term and leaf, of phrases
    private final TermState[][] states; // by term and leaf; null where the leaf lacks the term
    private final int[] df; // of these shards

    Batch(byte[] encoded) throws IOException {
      ByteBuffer in = little(encoded);
      terms = new Term[in.getInt()];
      fieldOf = take(in, terms.length);
      states = new TermState[terms.length][leaves.size()];
      df = new int[terms.length];
      phrases = new Query[terms.length];
      occurrences = new Occurrences[terms.length][leaves.size()];
      for (int t = 0; t < terms.length; t++) {
        terms[t] = new Term(fields[fieldOf[t]], new BytesRef(readText(in)));
        phrases[t] = phrase(terms[t]);
      }
      IndexSearcher counting = new IndexSearcher(reader);
      counting.setSimilarity(FREQUENCY);
      for (int t = 0; t < terms.length; t++) {
        if (phrases[t] != null) {
          Weight weight = counting.createWeight(counting.rewrite(phrases[t]), ScoreMode.COMPLETE, 1);
          for (LeafReaderContext leaf : leaves) {
            Scorer scorer = weight.scorer(leaf);
            occurrences[t][leaf.ord] = scorer == null ? null : new Occurrences(scorer);
          }
        }
      }
      Sums sums = new Sums(leaves.size(), fields.length);
      for (LeafReaderContext leaf : leaves) {
        for (int t = 0; t < terms.length; t++) {
          TermsEnum cursor = cursor(leaf, fieldOf[t], sums);
          if (phrases[t] == null && cursor != null && cursor.seekExact(terms[t].bytes())) {
            states[t][leaf.ord] = cursor.termState();
            df[t] += cursor.docFreq();
          }
        }
      }
    }

    private boolean has(LeafReaderContext leaf, int term) {
      return states[term][leaf.ord] != null || occurrences[term][leaf.ord] != null;
    }

    /** Return the number of documents of these shards with each term; phrases have none. */
    public byte[] df() {
      ByteBuffer out = little(new byte[Integer.BYTES * df.length]);
      put(out, df);
      return out.array();
    }

    /**
     * Return each query's hits in no order: their numbers, all documents (int32), all scores (float64). They are the k
     * best of those whose score rounds to one float32 however it is summed, ties by document, and whichever of those
     * that may round to either of two could be among the best.
     *
     * @param queries rows of terms; all weights (float64)
     * @param norms of each field, k1 (1 - b + b length / mean length) of each length code (float64); below 0 a frequency
     *     counts as it stands
     * @param slack relative difference between orders of summation, for each term and two more
     */
    public byte[] best(byte[] queries, byte[] norms, int k, double slack) throws InterruptedException {
      ByteBuffer in = little(queries);
      int[][] rows = takeRows(in);
      double[][] weights = new double[rows.length][];
      for (int q = 0; q < rows.length; q++) {
        weights[q] = takeDoubles(in, rows[q].length);
      }
      ByteBuffer given = little(norms);
      double[][] byField = new double[fields.length][];
      for (int f = 0; f < fields.length; f++) {
        byField[f] = takeDoubles(given, 256);
      }
      Scan scan = new Scan(byField);
      Best[] hits = new Best[rows.length];
      inThreads(terms.length, scan::bound);
      inThreads(rows.length, (q, sums) -> {
        hits[q] = new Best(Math.max(1, Math.min(k, reader.maxDoc())), slack * (rows[q].length + 2));
        for (LeafReaderContext leaf : leaves) {
          scan.collect(leaf, rows[q], weights[q], hits[q], sums);
        }
      });
      int total = 0;
      for (Best query : hits) {
        total += query.finish();
      }
      ByteBuffer out = little(new byte[Integer.BYTES * hits.length + (Integer.BYTES + Double.BYTES) * total]);
      for (Best query : hits) {
        out.putInt(query.docs.length);
      }
      for (Best query : hits) {
        put(out, query.docs);
      }
      for (Best query : hits) {
        for (double score : query.scores) {
          out.putDouble(score);
        }
      }
      return out.array();
    }

    /**
     * Return what BM25 reads of documents: the length codes of each one's fields, then of each query a row per document
     * with its terms' frequencies (int32).
     *
     * @param asked rows of terms; rows of documents, rising
     */
    public byte[] frequencies(byte[] asked) throws InterruptedException {
      ByteBuffer in = little(asked);
      int[][] rows = takeRows(in);
      int[][] docs = takeRows(in);
      int[][] found = new int[rows.length][];
      inThreads(rows.length, (q, sums) -> found[q] = frequencies(docs[q], rows[q], sums));
      int size = 0;
      for (int q = 0; q < rows.length; q++) {
        size += fields.length * docs[q].length + Integer.BYTES * found[q].length;
      }
      ByteBuffer out = little(new byte[size]);
      for (int[] row : docs) {
        for (int doc : row) {
          LeafReaderContext leaf = leaves.get(ReaderUtil.subIndex(doc, leaves));
          for (byte[][] code : codes) {
            out.put(code[leaf.ord][doc - leaf.docBase]);
          }
        }
      }
      for (int[] row : found) {
        put(out, row);
      }
      return out.array();
    }

    /**
     * Return each query's hits by Lucene's own scorer with the collection's statistics, which tests and the benchmark
     * hold `best` against: their numbers, all documents (int32), all scores (float32), best first.
     *
     * @param queries rows of terms; the boosts of them (float64); of each term its df in the collection
     * @param shape k, each field's documents with terms and terms in the collection (int64)
     */
    public byte[] lucene(byte[] queries, byte[] shape, float k1, float b) throws InterruptedException {
      ByteBuffer in = little(queries);
      int[][] rows = takeRows(in);
      double[][] boosts = new double[rows.length][];
      for (int q = 0; q < rows.length; q++) {
        boosts[q] = takeDoubles(in, rows[q].length);
      }
      int[] collectionDf = take(in, terms.length);
      TermStates[] collection = new TermStates[terms.length];
      for (int t = 0; t < terms.length; t++) {
        collection[t] = new TermStates(reader.getContext());
        collection[t].accumulateStatistics(collectionDf[t], collectionDf[t]);
        for (int leaf = 0; leaf < leaves.size(); leaf++) {
          if (states[t][leaf] != null) {
            collection[t].register(states[t][leaf], leaf);
          }
        }
      }
      ByteBuffer given = little(shape);
      int k = (int) given.getLong();
      Map<String, long[]> counts = new HashMap<>();
      for (String field : fields) {
        counts.put(field, new long[] {given.getLong(), given.getLong()});
      }
      Map<Term, Integer> df = new HashMap<>();
      for (int t = 0; t < terms.length; t++) {
        df.put(terms[t], collectionDf[t]);
      }
      IndexSearcher searcher = new CollectionSearcher(reader, counts, df);
      searcher.setSimilarity(new BM25Similarity(k1, b));
      searcher.setQueryCache(null);
      ScoreDoc[][] hits = new ScoreDoc[rows.length][];
      inThreads(rows.length, (q, sums) -> {
        BooleanQuery.Builder any = new BooleanQuery.Builder();
        for (int i = 0; i < rows[q].length; i++) {
          int term = rows[q][i];
          Query one = phrases[term] == null ? new TermQuery(terms[term], collection[term]) : phrases[term];
          float boost = (float) boosts[q][i];
          any.add(boost == 1 ? one : new BoostQuery(one, boost), BooleanClause.Occur.SHOULD);
        }
        hits[q] = searcher.search(any.build(), k).scoreDocs;
      });
      int total = 0;
      for (ScoreDoc[] query : hits) {
        total += query.length;
      }
      ByteBuffer out = little(new byte[Integer.BYTES * hits.length + (Integer.BYTES + Float.BYTES) * total]);
      for (ScoreDoc[] query : hits) {
        out.putInt(query.length);
      }
      for (ScoreDoc[] query : hits) {
        for (ScoreDoc hit : query) {
          out.putInt(hit.doc);
        }
      }
      for (ScoreDoc[] query : hits) {
        for (ScoreDoc hit : query) {
          out.putFloat(hit.score);
        }
      }
      return out.array();
    }

    /** Return what walks a field's terms, null where the leaf has none. */
    private TermsEnum cursor(LeafReaderContext leaf, int field, Sums sums) throws IOException {
      if (sums.cursors[field][leaf.ord] == null) {
        Terms known = leaf.reader().terms(fields[field]);
        sums.cursors[field][leaf.ord] = known == null ? null : known.iterator();
      }
      return sums.cursors[field][leaf.ord];
    }

    private TermsEnum at(LeafReaderContext leaf, int term, Sums sums) throws IOException {
      TermsEnum cursor = cursor(leaf, fieldOf[term], sums);
      cursor.seekExact(terms[term].bytes(), states[term][leaf.ord]);
      return cursor;
    }

    /** Return a term's postings in the place of those that the slot held before. */
    private PostingsEnum postings(LeafReaderContext leaf, int term, int slot, Sums sums) throws IOException {
      if (phrases[term] != null) {
        return occurrences[term][leaf.ord].again();
      }
      if (slot >= SLOTS) {
        return at(leaf, term, sums).postings(null, PostingsEnum.FREQS);
      }
      PostingsEnum[] held = sums.postings[leaf.ord];
      held[slot] = at(leaf, term, sums).postings(held[slot], PostingsEnum.FREQS);
      return held[slot];
    }

    private int[] frequencies(int[] docs, int[] row, Sums sums) throws IOException {
      int[] found = new int[docs.length * row.length];
      for (int from = 0, to; from < docs.length; from = to) {
        LeafReaderContext leaf = leaves.get(ReaderUtil.subIndex(docs[from], leaves));
        to = from;
        while (to < docs.length && docs[to] - leaf.docBase < leaf.reader().maxDoc()) {
          to++;
        }
        for (int i = 0; i < row.length; i++) {
          if (has(leaf, row[i])) {
            PostingsEnum postings = postings(leaf, row[i], 0, sums);
            for (int at = from; at < to; at++) {
              int doc = docs[at] - leaf.docBase;
              if (postings.docID() < doc) {
                postings.advance(doc);
              }
              found[at * row.length + i] = postings.docID() == doc ? postings.freq() : 0;
            }
          }
        }
      }
      return found;
    }

    /**
     * Scores the documents of a leaf window by window. The terms that together cannot reach the worst hit so far are
     * only looked up in documents that another term has: MaxScore (Turtle, Flood 1995), with bounds by window (Ding,
     * Suel 2011).
     */
    private final class Scan {
      private final double[][] norms; // by field and length code
      private final float[][][] bounds = new float[terms.length][leaves.size()][]; // by term, leaf, window; of weight 1

      Scan(double[][] norms) {
        this.norms = norms;
      }

      void bound(int term, Sums sums) throws IOException {
        for (LeafReaderContext leaf : leaves) {
          if (has(leaf, term)) {
            float[] most = new float[(leaf.reader().maxDoc() + WINDOW - 1) / WINDOW];
            double[] norms = this.norms[fieldOf[term]];
            if (phrases[term] != null || at(leaf, term, sums).docFreq() <= FEW) {
              read(postings(leaf, term, 0, sums), codes[fieldOf[term]][leaf.ord], norms, most);
            } else {
              readImpacts(at(leaf, term, sums).impacts(PostingsEnum.FREQS), leaf.reader().maxDoc(), norms, most);
            }
            bounds[term][leaf.ord] = most;
          }
        }
      }

      private void read(PostingsEnum postings, byte[] codes, double[] norms, float[] most) throws IOException {
        for (int doc = postings.nextDoc(); doc != PostingsEnum.NO_MORE_DOCS; doc = postings.nextDoc()) {
          raise(most, doc, doc, postings.freq(), norms[codes[doc] & 0xFF]);
        }
      }

      private void readImpacts(ImpactsEnum postings, int maxDoc, double[] norms, float[] most) throws IOException {
        for (int from = 0, to; from < maxDoc; from = to + 1) {
          postings.advanceShallow(from);
          Impacts impacts = postings.getImpacts();
          int level = 0;
          while (level + 1 < impacts.numLevels() && impacts.getDocIdUpTo(level + 1) <= (from | WINDOW - 1)) {
            level++;
          }
          to = Math.min(impacts.getDocIdUpTo(level), maxDoc - 1);
          for (Impact impact : impacts.getImpacts(level)) {
            raise(most, from, to, impact.freq, norms[(byte) impact.norm & 0xFF]);
          }
        }
      }

      private void raise(float[] most, int from, int to, int freq, double norm) {
        float bound = Math.nextUp((float) (norm < 0 ? freq : freq / (freq + norm)));
        for (int window = from / WINDOW; window <= to / WINDOW; window++) {
          most[window] = Math.max(most[window], bound);
        }
      }

      void collect(LeafReaderContext leaf, int[] row, double[] weights, Best best, Sums sums) throws IOException {
        Postings[] present = new Postings[row.length];
        int count = 0;
        for (int i = 0; i < row.length; i++) {
          if (has(leaf, row[i])) {
            PostingsEnum postings = postings(leaf, row[i], count, sums);
            int field = fieldOf[row[i]];
            byte[] lengths = codes[field][leaf.ord];
            present[count++] = new Postings(postings, weights[i], norms[field], lengths, bounds[row[i]][leaf.ord]);
          }
        }
        Postings[] rising = new Postings[count]; // by what they add at most in this window
        double[] upTo = new double[count]; // what they and those before them add at most
        int maxDoc = leaf.reader().maxDoc();
        for (int low = 0; count > 0 && low < maxDoc; low += WINDOW) {
          int size = 0;
          for (int i = 0; i < count; i++) {
            if (present[i].enter(low / WINDOW)) {
              int at = size++;
              for (; at > 0 && rising[at - 1].most > present[i].most; at--) {
                rising[at] = rising[at - 1];
              }
              rising[at] = present[i];
            }
          }
          int first = 0; // of those whose documents are all scored
          double most = 0;
          for (int i = 0; i < size; i++) {
            most += rising[i].most;
            upTo[i] = most;
            first = best.competes(most) ? first : i + 1;
          }
          for (int i = first; i < size; i++) {
            rising[i].addTo(sums, low, Math.min(low + WINDOW, maxDoc));
          }
          for (int at = first < size ? sums.next(0) : WINDOW; at < WINDOW; at = sums.next(at + 1)) {
            double score = sums.take(at);
            int i = first - 1;
            for (; i >= 0 && best.competes(score + upTo[i]); i--) {
              score += rising[i].score(low + at);
            }
            if (i < 0 && best.competes(score)) {
              best.add(leaf.docBase + low + at, score);
            }
          }
        }
      }
    }
  }

  /** Return the phrase that a term with a NUL in it stands for, null for any other. */
  private static Query phrase(Term term) {
    String[] words = term.text().split("\0", -1);
    PhraseQuery.Builder phrase = new PhraseQuery.Builder();
    for (int place = 0; place < words.length; place++) {
      if (!words[place].isEmpty()) {
        phrase.add(new Term(term.field(), words[place]), place);
      }
    }
    return words.length == 1 ? null : phrase.build();
  }

  /** Lets a scorer tell how often a document has what it looks for. */
  private static final Similarity FREQUENCY = new Similarity() {
    @Override
    public long computeNorm(FieldInvertState state) {
      throw new UnsupportedOperationException("nothing is indexed with it");
    }

    @Override
    public SimScorer scorer(float boost, CollectionStatistics collection, TermStatistics... terms) {
      return new SimScorer() {
        @Override
        public float score(float freq, long norm) {
          return freq;
        }
      };
    }
  };

  /** A phrase's documents in a leaf, as postings. */
  private static final class Occurrences extends PostingsEnum {
    private final int[] docs;
    private final int[] freqs;
    private int at = -1;

    Occurrences(Scorer scorer) throws IOException {
      int[] docs = new int[8];
      int[] freqs = new int[8];
      int size = 0;
      for (int doc = scorer.iterator().nextDoc(); doc != NO_MORE_DOCS; doc = scorer.iterator().nextDoc()) {
        if (size == docs.length) {
          docs = Arrays.copyOf(docs, 2 * size);
          freqs = Arrays.copyOf(freqs, 2 * size);
        }
        docs[size] = doc;
        freqs[size++] = (int) scorer.score();
      }
      this.docs = Arrays.copyOf(docs, size);
      this.freqs = Arrays.copyOf(freqs, size);
    }

    private Occurrences(int[] docs, int[] freqs) {
      this.docs = docs;
      this.freqs = freqs;
    }

    Occurrences again() {
      return new Occurrences(docs, freqs);
    }

    @Override
    public int docID() {
      return at < 0 ? -1 : at < docs.length ? docs[at] : NO_MORE_DOCS;
    }

    @Override
    public int nextDoc() {
      at++;
      return docID();
    }

    @Override
    public int advance(int target) {
      int found = Arrays.binarySearch(docs, Math.min(docs.length, at + 1), docs.length, target);
      at = found < 0 ? -found - 1 : found;
      return docID();
    }

    @Override
    public long cost() {
      return docs.length;
    }

    @Override
    public int freq() {
      return freqs[at];
    }

    @Override
    public int nextPosition() {
      return -1;
    }

    @Override
    public int startOffset() {
      return -1;
    }

    @Override
    public int endOffset() {
      return -1;
    }

    @Override
    public BytesRef getPayload() {
      return null;
    }
  }

  /** A term of a query in a leaf. */
  private static final class Postings {
    private final PostingsEnum postings;
    private final double weight;
    private final double[] norms;
    private final byte[] codes;
    private final float[] bounds;
    private int doc = -1;
    double most; // that it adds in this window

    Postings(PostingsEnum postings, double weight, double[] norms, byte[] codes, float[] bounds) {
      this.postings = postings;
      this.weight = weight;
      this.norms = norms;
      this.codes = codes;
      this.bounds = bounds;
    }

    boolean enter(int window) {
      most = weight * bounds[window];
      return most > 0;
    }

    void addTo(Sums sums, int low, int high) throws IOException {
      int at = doc < low ? postings.advance(low) : doc;
      for (; at < high; at = postings.nextDoc()) {
        sums.add(at - low, part(at));
      }
      doc = at;
    }

    double score(int wanted) throws IOException {
      doc = doc < wanted ? postings.advance(wanted) : doc;
      return doc == wanted ? part(wanted) : 0;
    }

    private double part(int at) throws IOException {
      int freq = postings.freq();
      double norm = norms[codes[at] & 0xFF];
      return norm < 0 ? weight * freq : weight * freq / (freq + norm);
    }
  }

  /** What a thread works with: its scores of one window, which documents have one, and postings to read anew. */
  private static final class Sums {
    private final TermsEnum[][] cursors; // by field and leaf
    private final PostingsEnum[][] postings; // by leaf and slot
    private final double[] scores = new double[WINDOW];
    private final long[] seen = new long[WINDOW / Long.SIZE];

    Sums(int leaves, int fields) {
      cursors = new TermsEnum[fields][leaves];
      postings = new PostingsEnum[leaves][SLOTS];
    }

    void add(int at, double part) {
      scores[at] += part;
      seen[at / Long.SIZE] |= 1L << at;
    }

    int next(int at) {
      for (int word = at / Long.SIZE; word < seen.length; word++, at = word * Long.SIZE) {
        long left = seen[word] >>> at;
        if (left != 0) {
          return at + Long.numberOfTrailingZeros(left);
        }
      }
      return WINDOW;
    }

    double take(int at) {
      double score = scores[at];
      scores[at] = 0;
      seen[at / Long.SIZE] &= ~(1L << at);
      return score;
    }
  }

  /** A query's hits so far. Documents come in rising order, so that a later one never displaces an equal one. */
  private static final class Best {
    private final LongHeap decided; // the score's bits, and below them the document's complement
    private final int k;
    private final double slack;
    private double worst = 0; // of k decided ones
    private int numUndecided = 0;
    int[] docs = new int[4]; // the undecided ones, until finish()
    double[] scores = new double[4];

    Best(int k, double slack) {
      this.k = k;
      this.slack = slack;
      decided = new LongHeap(k);
    }

    boolean competes(double most) {
      return most * (1 + slack) > worst;
    }

    void add(int doc, double score) {
      float low = (float) (score * (1 - slack));
      float high = (float) (score * (1 + slack));
      if (low != high) {
        if (numUndecided == docs.length) {
          docs = Arrays.copyOf(docs, 2 * numUndecided);
          scores = Arrays.copyOf(scores, 2 * numUndecided);
        }
        docs[numUndecided] = doc;
        scores[numUndecided++] = score;
      } else if (low > worst) {
        decided.insertWithOverflow((long) Float.floatToIntBits(low) << 32 | ~doc & 0xFFFFFFFFL);
        worst = decided.size() < k ? 0 : Float.intBitsToFloat((int) (decided.top() >>> 32));
      }
    }

    int finish() {
      docs = Arrays.copyOf(docs, numUndecided + decided.size());
      scores = Arrays.copyOf(scores, docs.length);
      for (int i = numUndecided; i < docs.length; i++) {
        long key = decided.pop();
        docs[i] = ~(int) key;
        scores[i] = Float.intBitsToFloat((int) (key >>> 32));
      }
      return docs.length;
    }
  }

  /** Tells Lucene's scorer of the whole collection instead of what it counts here. */
  private static final class CollectionSearcher extends IndexSearcher {
    private final Map<String, long[]> counts; // by field: documents with terms, terms
    private final Map<Term, Integer> df;

    CollectionSearcher(IndexReader reader, Map<String, long[]> counts, Map<Term, Integer> df) {
      super(reader);
      this.counts = counts;
      this.df = df;
    }

    @Override
    public TermStatistics termStatistics(Term term, int docFreq, long totalTermFreq) {
      int documents = df.get(term);
      return new TermStatistics(term.bytes(), documents, documents);
    }

    @Override
    public CollectionStatistics collectionStatistics(String name) {
      long[] of = counts.get(name);
      return new CollectionStatistics(name, of[0], of[0], of[1], of[0]);
    }
  }

  private interface Step {
    void run(int number, Sums sums) throws IOException;
  }

  /** Run the steps, each thread taking the next that is left; the first exception is thrown again. */
  private void inThreads(int steps, Step step) throws InterruptedException {
    AtomicInteger next = new AtomicInteger();
    AtomicReference<Throwable> failed = new AtomicReference<>();
    Runnable work = () -> {
      Sums sums = new Sums(leaves.size(), fields.length);
      try {
        for (int n = next.getAndIncrement(); n < steps && failed.get() == null; n = next.getAndIncrement()) {
          step.run(n, sums);
        }
      } catch (IOException | RuntimeException | Error error) {
        failed.compareAndSet(null, error);
      }
    };
    Thread[] others = new Thread[Math.max(0, Math.min(threads, steps) - 1)];
    for (int i = 0; i < others.length; i++) {
      others[i] = new Thread(work);
      others[i].setDaemon(true);
      others[i].start();
    }
    work.run();
    for (Thread other : others) {
      other.join();
    }
    if (failed.get() != null) {
      throw new IllegalStateException(failed.get());
    }
  }

  private static ByteBuffer little(byte[] bytes) {
    return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
  }

  private static void put(ByteBuffer out, int[] values) {
    out.asIntBuffer().put(values);
    out.position(out.position() + Integer.BYTES * values.length);
  }

  private static void writeText(ByteArrayOutputStream out, String text) {
    byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
    out.writeBytes(little(new byte[Integer.BYTES]).putInt(utf8.length).array());
    out.writeBytes(utf8);
  }

  private static byte[] readText(ByteBuffer in) {
    byte[] utf8 = new byte[in.getInt()];
    in.get(utf8);
    return utf8;
  }

  private static int[] take(ByteBuffer in, int count) {
    int[] values = new int[count];
    in.asIntBuffer().get(values);
    in.position(in.position() + Integer.BYTES * count);
    return values;
  }

  private static double[] takeDoubles(ByteBuffer in, int count) {
    double[] values = new double[count];
    in.asDoubleBuffer().get(values);
    in.position(in.position() + Double.BYTES * count);
    return values;
  }

  /** Return rows of unequal length: their number, their lengths, their values. */
  private static int[][] takeRows(ByteBuffer in) {
    int[] sizes = take(in, in.getInt());
    int[][] rows = new int[sizes.length][];
    for (int i = 0; i < sizes.length; i++) {
      rows[i] = take(in, sizes[i]);
    }
    return rows;
  }
}
