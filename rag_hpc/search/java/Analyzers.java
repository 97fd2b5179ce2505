package raghpc;

import java.io.IOException;
import java.util.Arrays;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.DelegatingAnalyzerWrapper;
import org.apache.lucene.analysis.LowerCaseFilter;
import org.apache.lucene.analysis.TokenFilter;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.core.WhitespaceTokenizer;
import org.apache.lucene.analysis.miscellaneous.DelimitedTermFrequencyTokenFilter;
import org.apache.lucene.analysis.standard.StandardTokenizer;
import org.apache.lucene.analysis.tokenattributes.CharTermAttribute;
import org.apache.lucene.analysis.tokenattributes.PositionIncrementAttribute;
import org.apache.lucene.analysis.tokenattributes.TypeAttribute;

/** Analysers that Lucene does not have. */
public final class Analyzers {
  private static final String RUN = StandardTokenizer.TOKEN_TYPES[StandardTokenizer.SOUTHEAST_ASIAN];

  private Analyzers() {}

  /**
   * Return an analyser of Thai, Lao, Khmer and Burmese, which set no word apart: a run of their letters is every so many
   * neighbouring characters of it. Other words stay whole, in lower case.
   */
  public static Analyzer grams(int size) {
    return new Analyzer() {
      @Override
      protected TokenStreamComponents createComponents(String field) {
        StandardTokenizer words = new StandardTokenizer();
        return new TokenStreamComponents(words, new Grams(new LowerCaseFilter(words), size));
      }

      @Override
      protected TokenStream normalize(String field, TokenStream in) {
        return new LowerCaseFilter(in);
      }
    };
  }

  /** Return what reads impacts: terms between spaces, the frequency of each behind the delimiter. */
  public static Analyzer impacts(char delimiter) {
    return new Analyzer() {
      @Override
      protected TokenStreamComponents createComponents(String field) {
        WhitespaceTokenizer terms = new WhitespaceTokenizer();
        return new TokenStreamComponents(terms, new DelimitedTermFrequencyTokenFilter(terms, delimiter));
      }
    };
  }

  /** Takes a document apart by the analyser that was chosen last. */
  public static final class Chosen extends DelegatingAnalyzerWrapper {
    private Analyzer chosen;

    /** Begin with an analyser. */
    public Chosen(Analyzer first) {
      super(PER_FIELD_REUSE_STRATEGY);
      chosen = first;
    }

    /** Take the documents from here on apart by this analyser. */
    public void choose(Analyzer next) {
      chosen = next;
    }

    @Override
    protected Analyzer getWrappedAnalyzer(String field) {
      return chosen;
    }
  }

  /** Each gram stands one position after the one before it, so that a phrase of them is the text itself. */
  private static final class Grams extends TokenFilter {
    private final int size;
    private final CharTermAttribute term = addAttribute(CharTermAttribute.class);
    private final TypeAttribute type = addAttribute(TypeAttribute.class);
    private final PositionIncrementAttribute step = addAttribute(PositionIncrementAttribute.class);
    private char[] run = new char[0];
    private int at; // of the next gram in the run

    Grams(TokenStream in, int size) {
      super(in);
      this.size = size;
    }

    @Override
    public boolean incrementToken() throws IOException {
      if (at + size > run.length || at == 0) {
        if (!input.incrementToken()) {
          return false;
        }
        at = 0;
        boolean cut = type.type().equals(RUN) && term.length() > size;
        run = cut ? Arrays.copyOf(term.buffer(), term.length()) : new char[0];
        if (!cut) {
          return true;
        }
      } else {
        step.setPositionIncrement(1);
      }
      term.copyBuffer(run, at++, size);
      return true;
    }

    @Override
    public void reset() throws IOException {
      super.reset();
      run = new char[0];
      at = 0;
    }
  }
}
